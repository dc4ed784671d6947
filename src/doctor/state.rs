//! The state directory: every ledger, line by line.

use super::{findings::Findings, holders, steps};
use crate::{
    dir::{Access, StateDir},
    error::Error,
    job::JobFiles,
    lock::Lane,
    state::Store,
};

pub(super) fn examine(state: StateDir, findings: &mut Findings) {
    examine_jobs(&state, findings);
    examine_trips(state, findings);
}

fn examine_jobs(state: &StateDir, findings: &mut Findings) {
    let Some(Some(dir)) = findings.keep(JobFiles::directory(state)) else { return };
    let Some(jobs) = findings.keep(JobFiles::all(&dir)) else { return };
    for (files, slots) in jobs {
        findings.looked_at.ledgers += 1;
        // Something planted where a lock belongs keeps the job from ever starting.
        for name in
            [files.lock(1), files.commit.clone(), format!("{}.turn", files.job), Lane::file_name(files.job.as_str())]
        {
            findings.keep(files.dir.open(&name, Access::Read));
        }
        findings.keep(files.dir.subdirectory(&files.queue()));
        let Some(verified) = findings.keep(files.verify()) else { continue };
        if verified.cut_short > 0 {
            let path = files.dir.path_of(&files.ledger);
            let lines = if verified.cut_short == 1 { "line was" } else { "lines were" };
            let note =
                format!("{}: {} {lines} cut short by a crash and passed over", path.display(), verified.cut_short);
            findings.note(note);
        }
        steps::examine(&files, findings);
        holders::examine(&files, &slots, findings);
    }
}

fn examine_trips(state: StateDir, findings: &mut Findings) {
    let store = Store::open(state);
    let Some(trips) = findings.keep(store.list()) else { return };
    for trip in trips {
        findings.looked_at.trips += 1;
        let Some(view) = findings.keep(trip) else { continue };
        match store.roster(&view.trip) {
            // Removed meanwhile.
            Ok(_) | Err(Error::NoSuchTrip(_)) => {}
            Err(e) => findings.problem(e),
        }
    }
}
