//! Taking a run out of its lane.
//!
//! Recorded under `NAME.commit`, under which a start is recorded too, so a run is either cancelled or started: its file gets another
//! name before that is written, and whoever holds `NAME.commit` later and finds that name asks the ledger which it is. Removed only
//! afterwards, the file would let the run start in between, or after a cancel that was killed there. Its process
//! would find out at its turn; it is killed at once (TERM may be ignored, and has nothing to tell), so that nobody stands behind it
//! for nothing. Only a process that has
//! the run's byte of the lane, seen again after it was opened, is signalled.

use std::collections::BTreeSet;

use super::{Queue, pending::Pending};
use crate::{
    error::{Error, Result},
    job::{Event, NotRun, Outcome, RunId, RunState},
    lock::Lane,
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
    let mut done = Ok(Vec::new());
    let mut decided = Vec::new();
    let appended = queue.ledger.append(|_| match decide(queue, runs) {
        Ok((pending, answers, events)) => {
            (decided, done) = (pending, Ok(answers));
            events
        }
        Err(e) => {
            done = Err(e);
            Vec::new()
        }
    });
    let appended = match appended {
        Ok(appended) => appended,
        Err(e) => {
            // Nothing was recorded, so they stand there again.
            let _again = queue.ledger.append(|_| {
                let _ = decided.iter().try_for_each(|pending| queue.settle_removal(*pending));
                Vec::new()
            });
            return Err(e);
        }
    };
    let done = done?;
    for pending in &decided {
        queue.remove(*pending)?;
    }
    appended.sync()?;
    // What cannot be ended (another user's) goes at its turn.
    let _ = end(queue, &decided.iter().map(|pending| pending.run.0).collect::<Vec<_>>());
    Ok(done)
}

type Decided = (Vec<Pending>, Vec<Result<Cancelled>>, Vec<Event>);

/// Who is to go, what is answered, and what is recorded; under `NAME.commit`.
fn decide(queue: &Queue, runs: &[RunId]) -> Result<Decided> {
    let views = queue.views(runs.iter().copied())?;
    let wanted: BTreeSet<_> = runs.iter().collect();
    let pending: Vec<_> = queue.pending()?.into_iter().filter(|pending| wanted.contains(&pending.run)).collect();
    let (mut leave, mut answers, mut events) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        let Some(view) = views.get(run) else {
            let why = format!("`triplock queue list {}` shows those there are", queue.name());
            answers.push(Err(Error::NoSuchRun { run: queue.run(*run), why }));
            continue;
        };
        let stands = pending.iter().find(|pending| pending.run == *run && view.ticket == Some(pending.ticket)).copied();
        // Somebody may have removed its file; then its process will not start it, and nothing else would ever end it.
        let without_file = view.ticket.map(|ticket| Pending { ticket, run: *run, is_left: false });
        let answer = match (view.state, stands.or(without_file)) {
            (RunState::Queued, Some(pending)) if !leave.contains(&pending) => {
                queue.begin_removal(pending)?;
                leave.push(pending);
                events.push(Event::NotRun(NotRun {
                    run: *run,
                    outcome: Outcome::Cancelled,
                    reason: "taken out of its lane".to_owned(),
                    holder: None,
                    wait: 0.0,
                    command: view.command.clone().unwrap_or_default(),
                    queued: true,
                }));
                Cancelled::Done
            }
            // Nobody may have recorded its end yet.
            (RunState::Unknown | RunState::Running, _) if queue.lane()?.has_run(run.0)? => Cancelled::Running,
            _ => Cancelled::Over,
        };
        answers.push(Ok(answer));
    }
    Ok((leave, answers, events))
}

/// Ends the processes of those runs. (Not who has just made one, and has its ticket too.)
fn end(queue: &Queue, runs: &[u64]) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let lane = queue.lane()?.id();
    let bytes: Vec<_> = runs.iter().map(|run| Lane::process_byte(*run)).collect();
    let found = who_have_bytes(lane, &bytes).map_err(|e| Error::io("look for the processes of", queue.path(), e))?;
    for (pid, byte) in found {
        // One that is gone by now, or is another user's.
        let Ok(Some(handle)) = Handle::open(pid) else { continue };
        if has_byte(pid, lane, byte).unwrap_or(false) {
            let _ = handle.signal(rustix::process::Signal::KILL);
        }
    }
    Ok(())
}
