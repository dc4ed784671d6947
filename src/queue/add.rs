//! Queueing a run.
//!
//! 1. Under `NAME.commit`: the next number, the ticket, the run's file, and its line in the ledger. A run that comes at the
//!    same time gets the next of each, so runs stand in the lane in the order of their numbers.
//! 2. The file comes before the line. Killed in between, a file is left that no line speaks of: nobody was told its number,
//!    and whoever gets that number replaces it. The other way round the ledger would have a run that nothing can start.
//! 3. Then the line and a second copy of the file are synced ([`super::journal`] says why not the file); only then is the
//!    number told, and the process forked that waits and runs. What fails until then is taken back, so nothing is half queued. Forked earlier, it could have run
//!    what the caller was told is not queued.
//! 4. The child inherits the ticket, so there is no moment at which nobody has it. It keeps nothing else of the caller's
//!    ([`crate::process::detach`]), and until it has left, the end of the caller's
//!    terminal does not end it ([`TerminalIgnored`]).

use std::time::Duration;

use super::{Queue, Request, journal, lane_queue::view, pending::Pending, waiter};
use crate::{
    dir::StateDir,
    error::{Error, Result},
    job::{Event, JobFiles, LaneRun, NotRun, Outcome, Queued, RunId},
    lock::{Ticket, shortened},
    name::Name,
    process::{self, TerminalIgnored},
};

/// No more runs stand in one lane: each is a process.
pub(crate) const MOST: u64 = 10_000;

/// What came of it.
#[derive(Debug)]
pub(crate) enum Added {
    /// It stands in its lane, and whether that is paused.
    Queued { run: LaneRun, is_paused: bool },
    /// There is no room: so many stand there.
    Full(u64),
}

/// Queues the run that this process was asked for, in a child of its own.
///
/// # Errors
/// `NoSuchRun` when one that it is to follow is not known; what making files and processes may bring: then it is not queued.
pub(crate) fn add(state: &StateDir, lane: &Name, request: Request) -> Result<Added> {
    let (queue, request, ticket) = match place(state, lane, request)? {
        Ok(placed) => placed,
        Err(full) => return Ok(Added::Full(full)),
    };
    let ignored = TerminalIgnored::begin();
    let forked = process::fork(|| waiter::begin(state, lane, &request, ticket, Duration::ZERO, Some(&ignored)));
    ignored.end();
    match forked {
        Ok(_) => Ok(queued(&queue, &request)),
        Err(e) => {
            let run = queue.run(request.run).to_string();
            Err(take_back(&queue, &request, Error::io("start a process for", run, e)))
        }
    }
}

/// The same of a request of another time: with its own environment and working directory, in a program of its own.
pub(crate) fn add_again(state: &StateDir, lane: &Name, request: Request) -> Result<Added> {
    let (queue, request, ticket) = match place(state, lane, request)? {
        Ok(placed) => placed,
        Err(full) => return Ok(Added::Full(full)),
    };
    let launched = waiter::departure().and_then(|departure| {
        waiter::launch(state, lane, &request, &ticket, &departure)?;
        Ok(departure)
    });
    match launched {
        Ok(departure) => {
            departure.wait();
            Ok(queued(&queue, &request))
        }
        Err(e) => Err(take_back(&queue, &request, e)),
    }
}

fn queued(queue: &Queue, request: &Request) -> Added {
    // (It is queued, whether or not that can be told.)
    Added::Queued { run: queue.run(request.run), is_paused: queue.is_paused().unwrap_or(false) }
}

/// Gives it its number and its place, durably; the inner error is how many stand there when there is no room.
fn place(state: &StateDir, lane: &Name, mut request: Request) -> Result<Result<(Queue, Request, Ticket), u64>> {
    process::survive_the_file_limit();
    let queue = Queue::make(state, lane)?;
    for after in &request.after {
        must_be_known(state, after)?;
    }
    let mut placed = Ok(None);
    let appended = queue.ledger.append(|totals| {
        if totals.queued >= MOST {
            placed = Err(Ok(totals.queued));
            return Vec::new();
        }
        match put(&queue, &mut request, totals.next_run(), totals.queued) {
            Ok(file) => placed = Ok(Some(file)),
            Err(e) => {
                placed = Err(Err(e));
                return Vec::new();
            }
        }
        vec![Event::Queued(Queued {
            run: request.run,
            ticket: request.ticket,
            after: request.after.clone(),
            even_if_failed: request.even_if_failed,
            command: shortened(request.command().iter()),
        })]
    });
    let file = match placed {
        Ok(file) => file,
        Err(Ok(full)) => return Ok(Err(full)),
        Err(Err(e)) => return Err(e),
    };
    let Some((file, ticket)) = file else { return Err(appended.err().unwrap_or(Error::LockLost(lane.clone()))) };
    let name = Pending::from(ticket.place()).file_name();
    let appended = match appended {
        Ok(appended) => appended,
        Err(e) => {
            queue.dir.unlink(&name)?;
            return Err(e);
        }
    };
    let synced = file.sync_data().map_err(|e| Error::io("sync the requests of", queue.path(), e));
    match synced.and_then(|()| appended.sync()) {
        Ok(()) => Ok(Ok((queue, request, ticket))),
        Err(e) => Err(take_back(&queue, &request, e)),
    }
}

/// The next ticket, the run's file, and the one with its request that is to be synced.
fn put(queue: &Queue, request: &mut Request, run: RunId, waiting: u64) -> Result<(std::fs::File, Ticket)> {
    let ticket = queue.lane()?.take(run.0)?;
    // Whoever waits for this run waits for that byte, so it is locked before anybody can know the run.
    ticket.begin_run()?;
    request.placed(run, ticket.place().ticket);
    let name = Pending::from(ticket.place()).file_name();
    request.write(&queue.dir, &name)?;
    match journal::append(queue, request, waiting) {
        Ok(file) => Ok((file, ticket)),
        Err(e) => {
            queue.dir.unlink(&name)?;
            Err(e)
        }
    }
}

/// It is not queued after all: gives why.
fn take_back(queue: &Queue, request: &Request, why: Error) -> Error {
    let not_run = NotRun {
        run: request.run,
        outcome: Outcome::NotStarted,
        reason: why.to_string(),
        holder: None,
        wait: 0.0,
        command: shortened(request.command().iter()),
        queued: true,
    };
    // It is the first error that matters.
    let _ = queue.ledger.append(|_| vec![Event::NotRun(not_run)]);
    let _ = queue.dir.unlink(&Pending::from(request.place()).file_name());
    why
}

/// A run can follow those only that were queued before it; so no two ever wait for each other. One that was not queued is known
/// to be over by its line in the ledger alone, so it must be there already.
fn must_be_known(state: &StateDir, run: &LaneRun) -> Result<()> {
    let known = JobFiles::directory(state)?.map(|jobs| view(&JobFiles::new(jobs, run.lane.clone()), run.run));
    let why = match known.transpose()?.flatten() {
        None => {
            "a run can follow only what was queued before it (so none can wait for itself); `triplock history` shows those"
        }
        Some(view) if view.queued.is_none() && view.outcome.is_none() => {
            "it was not queued, and its end is not recorded yet; a run can follow only what was queued, or is over"
        }
        Some(_) => return Ok(()),
    };
    Err(Error::NoSuchRun { run: run.clone(), why: why.to_owned() })
}
