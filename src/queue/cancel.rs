//! Taking a run out of its lane.
//!
//! Recorded under `NAME.commit`, under which a start is recorded too, so a run is either cancelled or started. Its process
//! would find out at its turn; it is ended at once, so that nobody stands behind it for nothing. Only a process that has
//! the run's byte of the lane, seen again after it was opened, is signalled.

use super::{Queue, lane_queue::Pending};
use crate::{
    error::{Error, Result},
    job::{Event, NotRun, Outcome, RunId, RunState},
    process::{Handle, has_byte, who_have_bytes},
};

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancelled {
    Done,
    /// It runs.
    Running,
    /// It is over, or was cancelled before.
    Over,
}

/// Takes these runs of one lane out of it.
///
/// # Errors
/// The inner one: `NoSuchRun`.
pub(crate) fn cancel(queue: &Queue, runs: &[RunId]) -> Result<Vec<Result<Cancelled>>> {
    let pending = queue.pending()?;
    let (mut done, mut ended) = (Vec::new(), Vec::new());
    for run in runs {
        let standing = pending.iter().find(|pending| pending.run == *run).copied();
        let cancelled = one(queue, *run, standing)?;
        if matches!(cancelled, Ok(Cancelled::Done)) {
            ended.push(run.0);
        }
        done.push(cancelled);
    }
    // What cannot be ended (another user's) goes at its turn.
    let _ = end(queue, &ended);
    Ok(done)
}

fn one(queue: &Queue, run: RunId, pending: Option<Pending>) -> Result<Result<Cancelled>> {
    let mut is_done = Ok(false);
    if let Some(pending) = pending {
        let command = queue.view(run)?.and_then(|view| view.command).unwrap_or_default();
        let appended = queue.ledger.append(|totals| {
            // It may have started since.
            let runs = totals.running.iter().any(|running| running.run == run);
            is_done =
                if runs { Ok(false) } else { queue.has(pending).and_then(|has| Ok(has && queue.is_waiting(pending)?)) };
            if !matches!(is_done, Ok(true)) {
                return Vec::new();
            }
            vec![Event::NotRun(NotRun {
                run,
                outcome: Outcome::Cancelled,
                reason: "taken out of its lane".to_owned(),
                holder: None,
                wait: 0.0,
                command,
                queued: true,
            })]
        })?;
        if is_done? {
            queue.remove(pending)?;
            appended.sync()?;
            return Ok(Ok(Cancelled::Done));
        }
    }
    Ok(match queue.view(run)? {
        None => Err(Error::NoSuchRun {
            run: queue.run(run),
            why: format!("`triplock queue list {}` shows those there are", queue.name()),
        }),
        Some(view) if matches!(view.state, RunState::Unknown | RunState::Running) => Ok(Cancelled::Running),
        Some(_) => Ok(Cancelled::Over),
    })
}

/// Ends the processes of those runs.
fn end(queue: &Queue, runs: &[u64]) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let lane = queue.lane()?.id();
    let failed = |e| Error::io("end a process of", queue.path(), e);
    for (pid, run) in who_have_bytes(lane, runs).map_err(failed)? {
        let Some(handle) = Handle::open(pid).map_err(failed)? else { continue };
        if has_byte(pid, lane, run).unwrap_or(false) {
            handle.signal(rustix::process::Signal::TERM).map_err(failed)?;
        }
    }
    Ok(())
}
