//! What a run leaves in the ledger when its wrapper is killed: a start without an end.

use super::{Ended, Outcome, Request, Running, Totals};

/// How the run that the ledger still shows in that slot ended, for whoever holds the slot's lock now: with the lock
/// free, it is over. Recorded before the next start, so that no run vanishes. `boot`: the kernel's boot id now.
pub(crate) fn remains(totals: &Totals, slot: u32, boot: &str) -> Option<Ended> {
    let running = totals.in_slot(slot)?;
    let reason = if running.boot == boot { "its wrapper was killed" } else { "the machine restarted" };
    Some(unrecorded(running, Outcome::Lost, reason.to_owned()))
}

/// The end of a run that nobody recorded: that outcome, unless somebody has asked for just this end.
pub(super) fn unrecorded(running: &Running, outcome: Outcome, reason: String) -> Ended {
    let Running { run, attempt, fence, start, wait, .. } = *running;
    Ended {
        run,
        attempt,
        outcome: running.ending.map_or(outcome, Request::outcome),
        again: false,
        exit: None,
        signal: None,
        code: None,
        start,
        duration: 0.0,
        user: 0.0,
        system: 0.0,
        peak_memory: 0,
        fence,
        wait,
        reason: Some(reason),
    }
}
