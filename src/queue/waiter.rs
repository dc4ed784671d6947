//! The process of a queued run: it waits in its lane, runs the command, and records how that went.
//!
//! While it waits it has no handler for any signal. TERM ends it as KILL does, and the run keeps its place: a machine that
//! shuts down sends TERM to everybody, and what had not started is to be started when it is up again (`queue resume`).

use std::{
    ffi::OsString,
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant},
};

use super::{Queue, Request, dependency::Dependency, pause, pending::Pending};
use crate::{
    clock::{Clock as _, SystemClock},
    dir::StateDir,
    error::{Error, Result},
    job::{Admission, Admitted, Event, Outcome, OutputMode, Run, RunId, Standing, Stranded},
    lock::{Ticket, Until},
    name::Name,
    process::{self, Departure, Program, Spawn, TerminalIgnored},
};

/// Becomes the process of that run. `state`: the state directory, whose path is absolute.
pub(super) fn begin(
    state: &StateDir,
    lane: &Name,
    request: &Request,
    ticket: Ticket,
    earlier: Duration,
    ignored: Option<&TerminalIgnored>,
) {
    // Its descriptor will be closed.
    let (path, is_local) = (state.path().to_owned(), state.is_local());
    // Nobody is there any more to be told of an error. Where the ledger can be written it says so.
    let _ = process::detach(ticket.descriptor())
        .map_err(|e| Error::io("leave the caller of", "this process", e))
        .and_then(|()| {
            if let Some(ignored) = ignored {
                ignored.end();
            }
            let state = StateDir::open(path, !is_local)?;
            see_through(&state, lane, request, ticket, earlier)
        });
}

/// The same in a program of its own, which was started in the environment of the request, with the lane's descriptor.
///
/// # Errors
/// What keeps the run from waiting: it keeps its place.
pub(crate) fn adopt(state: &StateDir, run: &crate::job::LaneRun, lane_fd: i32) -> Result<()> {
    let queue = Queue::open(state, &run.lane)?;
    let gone = || Error::NoSuchRun { run: run.clone(), why: "it stands in its lane no more".to_owned() };
    let queue = queue.ok_or_else(gone)?;
    let pending = queue.pending()?;
    let at = pending.iter().position(|pending| pending.run == run.run).ok_or_else(gone)?;
    // Whom to wait for first, so that not everybody who is resumed waits for the same one.
    let before = at.checked_sub(1).map(|before| pending[before].into());
    let pending = pending[at];
    let request = Request::of(&queue, pending)?.ok_or_else(gone)?;
    let ticket = Ticket::inherited(&queue.files.dir, queue.name().as_str(), (pending.into(), before), lane_fd)?;
    let directory = request.directory();
    if let Err(e) = std::env::set_current_dir(&directory) {
        let e = Error::io("enter", directory, e);
        queue.strand_own(&ticket, &e.to_string())?;
        return Err(e);
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(request.umask()));
    let lane = run.lane.clone();
    let queued = queue.view(run.run)?.and_then(|view| view.queued);
    let earlier = queued.and_then(|queued| (SystemClock.now() - queued).to_std().ok()).unwrap_or_default();
    drop(queue);
    begin(state, &lane, &request, ticket, earlier, None);
    Ok(())
}

/// Tells when launched programs have left us.
pub(super) fn departure() -> Result<Departure> {
    Departure::new().map_err(|e| Error::io("start processes for", "queued runs", e))
}

/// Starts such a program.
pub(super) fn launch(
    state: &StateDir,
    lane: &Name,
    request: &Request,
    ticket: &Ticket,
    departure: &Departure,
) -> Result<()> {
    let failed = |e| Error::io("start a process for", format!("{lane}/{}", request.run), e);
    let directory = request.directory();
    if !directory.is_dir() {
        return Err(Error::io("enter", directory, rustix::io::Errno::NOENT));
    }
    // Not standard input, output or error, whatever was closed when we were started.
    let descriptor = rustix::io::fcntl_dupfd_cloexec(ticket.descriptor(), 3).map_err(|e| failed(e.into()))?;
    let program = std::env::current_exe().map_err(failed)?;
    let mut words: Vec<OsString> = vec![program.into(), "--state-dir".into(), state.path().into()];
    words.extend(["--store", "files"].map(OsString::from));
    // Who started us was allowed to; a local one is not said to be, since its runs need not sync as often.
    words.extend((!state.is_local()).then(|| "--allow-network-fs".into()));
    words.extend(["queued-process".into(), format!("{lane}/{}", request.run).into()]);
    words.extend([descriptor.as_raw_fd().to_string().into(), "--".into()]);
    words.extend(request.command());
    let not_started = |e: process::SpawnError| failed(std::io::Error::other(e.to_string()));
    let program = Program::find(&words).map_err(not_started)?;
    let spawn = Spawn {
        environment: &request.environment(),
        inherit: &[descriptor.as_fd(), departure.descriptor()],
        // Of no group of its own: its leader could not have a session of its own.
        ..Spawn::plain(&program)
    };
    spawn.start().map(drop).map_err(not_started)
}

fn see_through(state: &StateDir, lane: &Name, request: &Request, ticket: Ticket, earlier: Duration) -> Result<()> {
    let queue = Queue::make(state, lane)?;
    // By a descriptor of its own, which nobody else has.
    let mark = queue.lane()?;
    mark.mark_process(request.run.0)?;
    let options = crate::job::Options { output: OutputMode::Capture, ..request.options() };
    let waiter = Waiter { state, queue: &queue, request, ticket, since: Instant::now(), earlier };
    let run = Run {
        state,
        job: lane,
        command: &request.command(),
        options: &options,
        queued: Some(&waiter),
        announce: &|_, _| {},
    };
    if let Err(e) = run.run() {
        // Nothing was run: it stands in its lane still, unless its start was recorded.
        queue.strand_own(&waiter.ticket, &e.to_string())?;
        return Err(e);
    }
    waiter.ticket.end_run();
    Ok(())
}

struct Waiter<'a> {
    state: &'a StateDir,
    queue: &'a Queue,
    request: &'a Request,
    ticket: Ticket,
    since: Instant,
    /// How long it had waited by then, when it had another process.
    earlier: Duration,
}

impl Waiter<'_> {
    fn pending(&self) -> Pending {
        self.request.place().into()
    }

    /// Records of everybody that stood before us and whose process is gone that it is.
    fn note_the_gone(&self) -> Result<()> {
        let mut gone = Vec::new();
        for pending in self.queue.pending()? {
            if pending.ticket >= self.request.ticket {
                break;
            }
            if !pending.is_left && !self.ticket.lane().is_live(pending.ticket)? {
                gone.push(pending);
            }
        }
        self.queue.strand(&gone, "its process was killed before its turn")
    }
}

impl Admission for Waiter<'_> {
    fn run(&self) -> RunId {
        self.request.run
    }

    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn waited(&self) -> Duration {
        self.earlier + self.since.elapsed()
    }

    fn wait(&self) -> Result<Admitted> {
        loop {
            // That somebody else's end cannot be recorded (a full disk) is no reason to give up the own place.
            let note_the_gone = || self.note_the_gone().unwrap_or_default();
            self.ticket.wait_for_turn(Until::Never, &mut || {
                note_the_gone();
                Ok(())
            })?;
            // Who stood right before us was served and left nothing; or it was killed, and its file is still there.
            if let Some(before) = self.ticket.before().filter(|before| before.run > 0) {
                if self.queue.has(before.into())? {
                    note_the_gone();
                }
            }
            if self.ticket.lane().is_resuming()? {
                self.ticket.lane().wait_for_resumption()?;
                // Who was resumed may stand before us.
                continue;
            }
            if self.queue.is_paused()? {
                pause::wait(self.queue)?;
                continue;
            }
            for run in &self.request.after {
                match Dependency::wait(self.state, run, self.request.even_if_failed)? {
                    Dependency::Met => {}
                    Dependency::Failed(reason) => {
                        return Ok(Admitted::No { outcome: Outcome::DependencyFailed, reason });
                    }
                    Dependency::Stranded => {
                        let reason = format!("{run}, which it is to follow, has no process");
                        self.queue.strand_own(&self.ticket, &reason)?;
                        return Ok(Admitted::Stranded);
                    }
                }
            }
            return Ok(Admitted::Yes);
        }
    }

    fn standing(&self) -> Result<Standing> {
        if !self.queue.has(self.pending())? {
            // Somebody takes it out, or was killed as he did.
            self.queue.settle_removal(self.pending())?;
            if !self.queue.has(self.pending())? {
                return Ok(Standing::Gone);
            }
        }
        Ok(if self.queue.is_paused()? || self.ticket.lane().is_resuming()? || !self.ticket.is_first()? {
            // Also when somebody was resumed in front of us while we waited for a further lock.
            Standing::Withheld
        } else {
            Standing::Wanted
        })
    }

    fn is_stopped(&self) -> Result<bool> {
        Ok(self.queue.view(self.request.run)?.is_some_and(|view| view.end_requested.is_some()))
    }

    fn leave(&self) {
        // A file that stays is a leftover, which the ledger tells from one that waits.
        let _ = self.queue.remove(self.pending());
        self.ticket.leave();
    }
}

impl Queue {
    /// Records that these runs stand in the lane and have no process; of those that do not stand there after all, removes
    /// what they left.
    pub(super) fn strand(&self, gone: &[Pending], reason: &str) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        self.record_stranded(gone, reason, || {})
    }

    /// The same of the one that has this ticket, which is given up in the same step: whoever found it without a process before
    /// that is recorded would record another reason.
    pub(super) fn strand_own(&self, ticket: &Ticket, reason: &str) -> Result<()> {
        let recorded = self.record_stranded(&[ticket.place().into()], reason, || ticket.leave());
        // Also when nothing could be recorded.
        ticket.leave();
        recorded
    }

    fn record_stranded(&self, gone: &[Pending], reason: &str, first: impl FnOnce()) -> Result<()> {
        let mut done = Ok(());
        let appended = self.ledger.append(|_| {
            first();
            self.note_stranded(gone, reason).unwrap_or_else(|e| {
                done = Err(e);
                Vec::new()
            })
        })?;
        done?;
        appended.sync()
    }

    fn note_stranded(&self, gone: &[Pending], reason: &str) -> Result<Vec<Event>> {
        let (waiting, lane) = (self.waiting(gone)?, self.lane()?);
        let mut events = Vec::new();
        for pending in gone {
            // Of that name no more: others, too, found it gone and were sooner, or it was taken out of the lane.
            // Or it has a process again.
            if self.dir.stat(&pending.file_name())?.is_none() || lane.is_live(pending.ticket)? {
                continue;
            }
            if waiting.contains(pending) {
                self.mark_left(*pending)?;
                events.push(Event::Stranded(Stranded { run: pending.run, reason: reason.to_owned() }));
            } else {
                self.remove(*pending)?;
            }
        }
        Ok(events)
    }
}
