//! A look at everything that can be wrong before it matters: configuration, job files, state.
//!
//! All of it is said at once, each with its place; nothing is changed, and no lock is taken.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    config::{self, Places, Problem},
    dir::{Access, Environment, StateDir},
    error::{Error, Result},
    exit::ExitCode,
    job::{JobFiles, definition::Sources},
    state::Store,
};

/// What is to be looked at.
#[derive(Debug)]
pub(crate) struct Doctor<'a> {
    pub(crate) environment: &'a Environment,
    /// The job files that the command line names.
    pub(crate) config: Option<&'a Path>,
    /// The state directory, or why there is none.
    pub(crate) state: Result<PathBuf>,
    pub(crate) allow_network_fs: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What is wrong.
    pub(crate) problems: Vec<Error>,
    /// What is unusual and harmless.
    pub(crate) notes: Vec<String>,
    pub(crate) looked_at: LookedAt,
}

/// How much was looked at.
#[derive(Debug, Default, Serialize)]
pub(crate) struct LookedAt {
    /// Job files that could be read.
    pub(crate) job_files: usize,
    /// Jobs that they define, those with mistakes left out.
    pub(crate) defined_jobs: usize,
    /// Jobs that have run.
    pub(crate) ledgers: usize,
    pub(crate) trips: usize,
    pub(crate) state_dir: Option<PathBuf>,
}

impl Findings {
    /// Corrupt state is worse than anything else that is wrong.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let corrupt = |error: &Error| error.exit_code() == ExitCode::Corrupt;
        match &self.problems[..] {
            [] => ExitCode::Success,
            problems if problems.iter().any(corrupt) => ExitCode::Corrupt,
            _ => ExitCode::Configuration,
        }
    }

    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }
}

impl Doctor<'_> {
    pub(crate) fn examine(self) -> Findings {
        let mut findings = Findings::default();
        self.examine_configuration(&mut findings);
        let state = match self.state {
            Ok(path) => Some(path),
            // Said already.
            Err(Error::BadConfiguration { .. }) => None,
            Err(e) => findings.note(Err(e)),
        };
        if let Some(path) = state {
            let opened = StateDir::open_existing(&path, self.allow_network_fs);
            match findings.note(opened) {
                Some(Some(state)) => {
                    examine_jobs(&state, &mut findings);
                    examine_trips(state, &mut findings);
                }
                Some(None) => {
                    let note =
                        format!("{}: the state directory is not there yet; the first command makes it", path.display());
                    findings.notes.push(note);
                }
                None => {}
            }
            findings.looked_at.state_dir = Some(path);
        }
        findings
    }

    fn examine_configuration(&self, findings: &mut Findings) {
        if let Some(places) = findings.note(Places::of(self.environment)) {
            findings.problems.extend(config::check_global(&places).into_iter().map(Problem::into_error));
        }
        if let Some(sources) = findings.note(Sources::new(self.config, self.environment)) {
            let all = sources.all();
            findings.problems.extend(all.problems.into_iter().map(Problem::into_error));
            findings.looked_at.job_files = all.files;
            findings.looked_at.defined_jobs = all.definitions.len();
        }
    }
}

fn examine_jobs(state: &StateDir, findings: &mut Findings) {
    let Some(Some(dir)) = findings.note(JobFiles::directory(state)) else { return };
    let Some(jobs) = findings.note(JobFiles::all(&dir)) else { return };
    for (files, _) in jobs {
        findings.looked_at.ledgers += 1;
        // Something planted where a lock belongs keeps the job from ever starting.
        for name in [files.lock(1), files.commit.clone(), format!("{}.turn", files.job)] {
            findings.note(files.dir.open(&name, Access::Read));
        }
        let Some(verified) = findings.note(files.verify()) else { continue };
        if verified.cut_short > 0 {
            let path = files.dir.path_of(&files.ledger);
            let lines = if verified.cut_short == 1 { "line was" } else { "lines were" };
            let note =
                format!("{}: {} {lines} cut short by a crash and passed over", path.display(), verified.cut_short);
            findings.notes.push(note);
        }
    }
}

fn examine_trips(state: StateDir, findings: &mut Findings) {
    let store = Store::open(state);
    let Some(trips) = findings.note(store.list()) else { return };
    for trip in trips {
        findings.looked_at.trips += 1;
        let Some(view) = findings.note(trip) else { continue };
        match store.roster(&view.trip) {
            // Removed meanwhile.
            Ok(_) | Err(Error::NoSuchTrip(_)) => {}
            Err(e) => findings.problems.push(e),
        }
    }
}
