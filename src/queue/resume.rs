//! Giving runs without a process another one: after a reboot, a pause, or a kill.

use std::sync::Arc;

use super::{Queue, Request, lane_queue::Pending, waiter};
use crate::{
    clock::SystemClock,
    dir::StateDir,
    error::Result,
    job::{Event, Look, Place, RunId, remains},
    lock::{Acquire, FileLock, Identity, Missing, Until},
    process::Departure,
};

/// What was found and done in one lane.
#[derive(Debug, Default)]
pub(crate) struct Resumed {
    /// It was paused.
    pub(crate) was_paused: bool,
    /// Runs that were cut off: their process and all they started are gone, and nobody had recorded that.
    pub(crate) cut_off: Vec<RunId>,
    /// Runs that stand in line with a new process.
    pub(crate) started: Vec<RunId>,
    /// Runs that could not be given one, and why.
    pub(crate) failed: Vec<(RunId, String)>,
}

/// Ends pauses, records what was cut off, and starts a process for each run that has none, in its old place.
///
/// Those of all lanes in the order in which they were queued: a run follows only what was queued before it. Lane by lane, it
/// would find that nobody waits yet for what it follows, and give up its process again.
pub(crate) fn resume(state: &StateDir, queues: &[Queue]) -> Result<Vec<Resumed>> {
    let mut resumed = Vec::new();
    let mut waiting = Vec::new();
    for (at, queue) in queues.iter().enumerate() {
        resumed.push(Resumed { cut_off: record_the_cut_off(queue)?, ..Resumed::default() });
        waiting.extend(queue.pending()?.into_iter().map(|pending| (pending, at)));
    }
    waiting.sort_unstable();
    let departure = waiter::departure()?;
    for (pending, at) in waiting {
        match start(state, &queues[at], pending, &departure) {
            Ok(true) => resumed[at].started.push(pending.run),
            Ok(false) => {}
            // It is without a process again, which is recorded already, or will be.
            Err(e) => resumed[at].failed.push((pending.run, e.to_string())),
        }
    }
    departure.wait();
    for (queue, resumed) in queues.iter().zip(&mut resumed) {
        // At last, so that the first in line is the first to start.
        resumed.was_paused = queue.unpause()?;
    }
    Ok(resumed)
}

/// Gives a run a process, if it has none and is to have one; whether that was so.
fn start(state: &StateDir, queue: &Queue, pending: Pending, departure: &Departure) -> Result<bool> {
    let Some(ticket) = queue.lane()?.take_again(pending.place())? else { return Ok(false) };
    if !ticket.begin_run()? || !queue.has(pending)? || !queue.is_waiting(pending)? {
        // It has started meanwhile, or is a leftover, which this removes.
        queue.strand(pending, "")?;
        return Ok(false);
    }
    // None: cancelled.
    let Some(request) = Request::of(&queue.dir, pending)? else { return Ok(false) };
    queue.mark(pending, false)?;
    waiter::launch(state, queue.name(), &request, &ticket, departure)?;
    Ok(true)
}

/// Records the end of each run that the ledger shows as running and that is over. The lock of its slot proves that.
fn record_the_cut_off(queue: &Queue) -> Result<Vec<RunId>> {
    let files = queue.files();
    let totals = files.totals()?.unwrap_or_default();
    if totals.running.is_empty() {
        return Ok(Vec::new());
    }
    let look = Look::now()?;
    let locks = FileLock::in_dir(Arc::clone(&files.dir), Arc::new(Identity::current()), Arc::new(SystemClock));
    let boot = Place::current_or_unknown().boot;
    let mut cut_off = Vec::new();
    for running in &totals.running {
        // (A `flock --job` run has none of the job's slots.)
        if running.file.is_some() || look.runs(files, running)? != Some(false) {
            continue;
        }
        let acquired =
            locks.acquire_named_file(&files.job, files.lock(running.slot), Missing::Create, Until::Now, None)?;
        let Some(Acquire::Granted(_guard)) = acquired else { continue };
        let mut ended = None;
        let appended = queue.ledger.append(|totals| {
            let remains = remains(totals, running.slot, &boot).filter(|remains| remains.run == running.run);
            ended = remains.as_ref().map(|remains| remains.run);
            remains.map(Event::Ended).into_iter().collect()
        })?;
        appended.sync()?;
        cut_off.extend(ended);
    }
    Ok(cut_off)
}
