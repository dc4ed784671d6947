//! Giving runs without a process another one: after a reboot, a pause, or a kill.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Utc};

use super::{Queue, Request, journal, pending::Pending, waiter};
use crate::{
    clock::SystemClock,
    dir::StateDir,
    error::{Error, Result},
    job::{Event, Look, Outcome, Place, RunId, Runs, remains},
    lock::{Acquire, FileLock, HeldFile, Identity, Lane, Missing, Ticket, Until},
    process::Departure,
};

/// What was found and done in one lane.
#[derive(Debug, Default)]
pub(crate) struct Resumed {
    /// It was paused.
    pub(crate) was_paused: bool,
    /// Queued runs that were cut off since the last time: their process was killed while they ran, and they are over.
    pub(crate) cut_off: Vec<RunId>,
    /// Runs that stand in line with a new process.
    pub(crate) started: Vec<RunId>,
    /// Runs that could not be given one, and why.
    pub(crate) failed: Vec<(RunId, String)>,
}

/// Records what was cut off, and starts a process for each run that has none, in its old place; lane by lane, since one that cannot
/// be read must not keep the others back. `end_pauses`: lets lanes that were paused go on; otherwise they stay so, since whoever
/// brings a machine up again did not pause them.
///
/// One process at a time does, and nothing of these lanes starts meanwhile: a lock on a byte of each lane says so, which ends with
/// this process however it ends. So what the ledgers say at the beginning who waits holds until everybody has a place again; the first
/// in line is the first to start; and a run that follows one of another lane finds that one waiting, instead of giving up its
/// new process at once.
pub(crate) fn resume(state: &StateDir, queues: &[Queue], end_pauses: bool) -> Result<Vec<Result<Resumed>>> {
    // In byte order, so that two that come at once do not wait for each other.
    let mut held: Vec<_> = queues.iter().map(Held::take).collect();
    let departure = waiter::departure()?;
    let mut resumed = Vec::new();
    for (queue, held) in queues.iter().zip(&mut held) {
        resumed.push(match held {
            Ok(held) => one(state, queue, held, &departure),
            Err(e) => Err(e.clone()),
        });
    }
    departure.wait();
    for ((queue, held), resumed) in queues.iter().zip(&held).zip(&mut resumed) {
        let (Ok(held), Ok(told)) = (held, &mut *resumed) else { continue };
        let ended = if end_pauses && told.was_paused { queue.unpause() } else { Ok(()) };
        if let Err(e) = ended.and_then(|()| queue.note_the_resumption(&held.turn)) {
            *resumed = Err(e);
        }
    }
    Ok(resumed)
}

/// A lane from which nothing starts.
struct Held {
    turn: HeldFile,
    /// When that was the case last.
    last: Option<DateTime<Utc>>,
    _lane: Lane,
}

impl Held {
    fn take(queue: &Queue) -> Result<Self> {
        let (turn, last) = queue.turn_of_resuming()?;
        let lane = queue.lane()?;
        lane.begin_resuming()?;
        // Whoever was just about to record a start has done so now.
        let _nothing = queue.ledger.append(|_| Vec::new())?;
        Ok(Self { turn, last, _lane: lane })
    }
}

fn one(state: &StateDir, queue: &Queue, held: &Held, departure: &Departure) -> Result<Resumed> {
    let mut restored = Ok(());
    // An `add` that is under way has its file and its line, or neither.
    let _nothing = queue.ledger.append(|_| {
        restored = restore(queue);
        Vec::new()
    })?;
    restored?;
    let mut resumed =
        Resumed { was_paused: queue.is_paused()?, cut_off: cut_off(queue, held.last)?, ..Resumed::default() };
    give_processes(state, queue, &mut resumed, departure)?;
    Ok(resumed)
}

/// Makes the files again that a power cut took, and settles what was being taken out.
fn restore(queue: &Queue) -> Result<()> {
    queue.going()?.into_iter().try_for_each(|pending| queue.settle_removal(pending))?;
    let queued = queue.files().totals()?.unwrap_or_default().queued;
    let pending = queue.pending()?;
    let is_whole = |pending: &&Pending| !matches!(Request::of(queue, **pending), Ok(None) | Err(Error::Corrupt { .. }));
    // (Some may be leftovers of runs that have started.)
    let whole: BTreeSet<_> = pending.iter().filter(is_whole).map(|pending| (pending.run, pending.ticket)).collect();
    let mut lost = queue.queued(queued)?;
    lost.retain(|pending| !whole.contains(&(pending.run, pending.ticket)));
    if lost.is_empty() { Ok(()) } else { journal::restore(queue, &lost) }
}

fn give_processes(state: &StateDir, queue: &Queue, resumed: &mut Resumed, departure: &Departure) -> Result<()> {
    let pending = queue.pending()?;
    let waiting: BTreeSet<_> = queue.waiting(&pending)?.into_iter().collect();
    for pending in pending {
        let Some(ticket) = queue.lane()?.take_again(pending.into())? else { continue };
        if !waiting.contains(&pending) {
            // It did not stand there at the beginning. What came since has a process; what is left is a leftover.
            ticket.leave();
            queue.strand(&[pending], "its process is gone")?;
            continue;
        }
        ticket.begin_run()?;
        match give_a_process(state, queue, pending, &ticket, departure) {
            Ok(true) => resumed.started.push(pending.run),
            Ok(false) => {}
            // It is without a process again.
            Err(e) => resumed.failed.push((pending.run, e.to_string())),
        }
    }
    Ok(())
}

/// `false` when it was cancelled meanwhile.
fn give_a_process(
    state: &StateDir,
    queue: &Queue,
    pending: Pending,
    ticket: &Ticket,
    departure: &Departure,
) -> Result<bool> {
    let Some(request) = Request::of(queue, pending)? else { return Ok(false) };
    queue.mark_live(pending)?;
    if let Err(e) = waiter::launch(state, queue.name(), &request, ticket, departure) {
        // It is the first error that matters.
        let _ = queue.strand_own(ticket, &e.to_string());
        return Err(e);
    }
    Ok(true)
}

/// The queued runs that were cut off since the lane was resumed last: those whose end nobody had recorded, and those that whoever ran
/// next has recorded as lost.
fn cut_off(queue: &Queue, before: Option<DateTime<Utc>>) -> Result<Vec<RunId>> {
    record_the_cut_off(queue)?;
    let mut cut_off = Vec::new();
    for view in Runs::of(queue.files(), before)? {
        let view = view?;
        if view.queued.is_some()
            && view.outcome == Some(Outcome::Lost)
            && view.end.is_some_and(|end| Some(end) > before)
        {
            cut_off.push(view.run);
        }
    }
    cut_off.reverse();
    Ok(cut_off)
}

/// Records the end of each run that the ledger shows as running and that is over. The lock of its slot proves that.
fn record_the_cut_off(queue: &Queue) -> Result<()> {
    let files = queue.files();
    let totals = files.totals()?.unwrap_or_default();
    if totals.running.is_empty() {
        return Ok(());
    }
    let look = Look::now()?;
    let locks = FileLock::in_dir(Arc::clone(&files.dir), Arc::new(Identity::current()), Arc::new(SystemClock));
    let boot = Place::current_or_unknown().boot;
    for running in &totals.running {
        // (A `flock --job` run has none of the job's slots.)
        if running.file.is_some() || look.runs(files, running)? != Some(false) {
            continue;
        }
        let acquired =
            locks.acquire_named_file(&files.job, files.lock(running.slot), Missing::Create, Until::Now, None)?;
        let Some(Acquire::Granted(_guard)) = acquired else { continue };
        let appended = queue.ledger.append(|totals| {
            let remains = remains(totals, running.slot, &boot).filter(|remains| remains.run == running.run);
            remains.map(Event::Ended).into_iter().collect()
        })?;
        appended.sync()?;
    }
    Ok(())
}
