//! Locks that outlive their run: what a run left behind keeps the descriptor, and the job can never start again.

use std::{thread::sleep, time::Duration};

use chrono::TimeDelta;

use super::findings::{Findings, Trouble};
use crate::{
    clock::{Clock as _, SystemClock},
    error::Result,
    job::{JobFiles, Look, Presence, Slot},
    process::{self, Keeper},
};

/// A start has its lock for a moment before it is in the ledger, and an end is in the ledger for a moment while it still
/// has the lock. What is still so after this is so.
const MOMENT: Duration = Duration::from_millis(300);

pub(super) fn examine(files: &JobFiles, slots: &[u32], findings: &mut Findings) {
    let Some(first) = findings.keep(leftovers(files, slots)).filter(|found| !found.is_empty()) else { return };
    sleep(MOMENT);
    let Some(again) = findings.keep(leftovers(files, slots)) else { return };
    for slot in again {
        if !first.iter().any(|before| before.number == slot.number && keepers(before) == keepers(&slot)) {
            continue;
        }
        say(files, &slot, findings);
    }
}

fn leftovers(files: &JobFiles, slots: &[u32]) -> Result<Vec<Slot>> {
    let totals = files.totals()?.unwrap_or_default();
    let (_, slots) = Look::now()?.slots(files, totals, slots)?;
    Ok(slots.into_iter().filter(|slot| keepers(slot).is_some()).collect())
}

/// Who keeps the lock of a slot whose run is over, or has lost its wrapper.
fn keepers(slot: &Slot) -> Option<Vec<u32>> {
    match &slot.presence {
        Presence::Orphaned(_, keepers) | Presence::Kept(keepers) => {
            let is_wrapper = |keeper: &Keeper| process::info(keeper.pid).is_some_and(|info| info.name == "triplock");
            // Itself busy with starting, or with ending.
            (!keepers.iter().any(is_wrapper)).then(|| keepers.iter().map(|keeper| keeper.pid).collect())
        }
        _ => None,
    }
}

fn say(files: &JobFiles, slot: &Slot, findings: &mut Findings) {
    let job = &files.job;
    let lock = files.dir.path_of(&files.lock(slot.number));
    let (keepers, run) = match &slot.presence {
        Presence::Orphaned(run, keepers) => (keepers, Some(run)),
        Presence::Kept(keepers) => (keepers, None),
        _ => return,
    };
    let pids: Vec<_> = keepers.iter().map(|keeper| keeper.pid.to_string()).collect();
    let who = match keepers.first() {
        None => "a process that this user may not look into".to_owned(),
        Some(keeper) => {
            let more = match keepers.len() {
                1 => String::new(),
                several => format!(" and {} more", several - 1),
            };
            let mut command = process::command_line(keeper.pid).unwrap_or_default();
            if let Some((at, _)) = command.char_indices().nth(80) {
                command.truncate(at);
                command.push('…');
            }
            let age = process::info(keeper.pid).and_then(|info| TimeDelta::from_std(info.age()).ok());
            let since = age.and_then(|age| SystemClock.now().checked_sub_signed(age));
            let since = since.map_or(String::new(), |since| format!(", since {}", crate::clock::rfc3339(since)));
            format!("process {} ({command}{since}){more}", keeper.pid)
        }
    };
    let message = match run {
        Some(run) => format!(
            "job {job}: the triplock of run {} is gone, and {who} keeps its lock {}, so every start is skipped; end it with \
             `triplock stop {job}`",
            run.run,
            lock.display()
        ),
        None => {
            let fix = match &pids[..] {
                [] => format!("ask `triplock status --why {job}` as root"),
                pids => format!("`kill {}`", pids.join(" ")),
            };
            format!(
                "job {job}: no run is on, and {who} keeps its lock {}, so every start is skipped; {fix}, and run the job with \
                 --close, or without --hold tree, if it is to leave processes behind",
                lock.display()
            )
        }
    };
    let numbers: Vec<_> = keepers.iter().map(|keeper| keeper.pid).collect();
    let trouble =
        Trouble::new("leftover_holder", message).with("job", job.as_str()).with("lock", lock.to_string_lossy());
    findings.problem(trouble.with("pids", numbers));
}
