//! Ending a run that another process watches over: `stop`, and what `--policy replace` does first.
//!
//! 1. Who keeps the lock is proven: a process with a descriptor whose fdinfo shows the lock. The note in the lock file,
//!    /proc/locks and the ledger only say where to look. Each process is opened as a pidfd and proven again after that,
//!    so a pid that was recycled in between never gets a stranger signalled.
//! 2. The request is in the ledger before the first signal: the run that is ended, or whoever finds its remains, knows
//!    what the signal meant.
//! 3. If the wrapper lives, it alone gets TERM: it ends its job's whole tree and records the end. If it is still there
//!    after the grace, its descendants get KILL, so that it can still record; and at last it does, too.
//! 4. If the wrapper is dead, every process that keeps the lock gets TERM, and after the grace KILL; the end of the run
//!    is recorded here.
//!
//! The lock itself is never taken, so nobody who starts meanwhile is skipped because of the stop.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    process::Signal,
};

use super::{
    files::JobFiles,
    ledger::JobLedger,
    model::{EndRequest, Event, Request, RunId},
    place::Place,
    remains::remains,
};
use crate::{
    clock::SystemClock,
    dir::{FileId, StateDir},
    error::{Error, Result},
    lock::{FileLock, Identity},
    name::Name,
    process::{Handle, Keepers, Signals, keepers, keeps, kill_tree_of, wait_for},
};

/// How long a wrapper whose job is gone may take to record that.
const RECORDING: Duration = Duration::from_secs(5);

/// What became of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It is over.
    Gone,
    /// There was none.
    NothingThere,
    /// A signal told us to stop instead.
    Interrupted(i32),
}

/// One slot whose run is to end.
pub(super) struct Stop<'a> {
    pub(super) locks: &'a FileLock,
    pub(super) ledger: &'a JobLedger,
    pub(super) file: &'a str,
    pub(super) slot: u32,
    pub(super) request: Request,
    /// Until KILL; zero sends none.
    pub(super) grace: Duration,
    pub(super) interrupt: Option<&'a Signals>,
}

/// What a wait came to.
enum Waited {
    Ended,
    TimeIsUp,
    Interrupted(i32),
}

impl Stop<'_> {
    pub(super) fn end(&self) -> Result<Stopped> {
        let mut requested: Option<Option<RunId>> = None;
        loop {
            let Some((note, id)) = self.locks.note_of(self.file)? else { return Ok(Stopped::NothingThere) };
            let who = self.keepers(id)?;
            if who.is_empty() {
                self.conclude(requested.flatten())?;
                return Ok(if requested.is_some() { Stopped::Gone } else { Stopped::NothingThere });
            }
            if requested.is_none() {
                requested = Some(self.record()?);
            }
            let wrapper = note.as_ref().map(|note| note.pid).filter(|pid| who.contains(pid));
            let waited = match wrapper {
                Some(wrapper) => self.end_wrapper(wrapper, id)?,
                None => self.end_orphans(&who, id)?,
            };
            if let Waited::Interrupted(signal) = waited {
                return Ok(Stopped::Interrupted(signal));
            }
        }
    }

    /// Every process that is proven to keep the lock, this one excepted: a job may stop itself.
    fn keepers(&self, id: FileId) -> Result<Vec<u32>> {
        let failed = |e| Error::io("read", "/proc", e);
        let Keepers { keepers: found, unreadable, locked } = keepers(id).map_err(failed)?;
        if found.is_empty() && locked && unreadable > 0 {
            return Err(Error::Denied {
                path: self.locks.path_of(self.file),
                why: "is locked by a process that this user may not look into; stop it as its owner or as root"
                    .to_owned(),
            });
        }
        let mut pids: Vec<_> = found.iter().map(|keeper| keeper.pid).filter(|pid| *pid != std::process::id()).collect();
        pids.dedup();
        Ok(pids)
    }

    /// The run whose end is now asked for, if the ledger knows one in this slot.
    fn record(&self) -> Result<Option<RunId>> {
        let mut asked = None;
        let appended = self.ledger.append(|totals| {
            asked = totals.in_slot(self.slot).map(|running| running.run);
            asked.map(|run| Event::EndRequested(EndRequest { run, request: self.request })).into_iter().collect()
        })?;
        appended.sync()?;
        Ok(asked)
    }

    /// Records the end of a run whose wrapper did not.
    fn conclude(&self, run: Option<RunId>) -> Result<()> {
        let Some(run) = run else { return Ok(()) };
        let boot = Place::current_or_unknown().boot;
        self.ledger
            .append(|totals| {
                let still_there = totals.in_slot(self.slot).is_some_and(|running| running.run == run);
                if still_there {
                    remains(totals, self.slot, &boot).map(Event::Ended).into_iter().collect()
                } else {
                    Vec::new()
                }
            })?
            .sync()
    }

    fn open(&self, pid: u32, id: FileId) -> Result<Option<Handle>> {
        let failed = |e| Error::io("open the process that keeps", self.locks.path_of(self.file), e);
        let Some(handle) = Handle::open(pid).map_err(failed)? else { return Ok(None) };
        Ok(keeps(pid, id).map_err(failed)?.then_some(handle))
    }

    fn signal(&self, handle: &Handle, signal: Signal) -> Result<()> {
        let denied = |_| Error::Denied {
            path: self.locks.path_of(self.file),
            why: format!(
                "pid {} keeps the lock, and this user may not signal it; stop it as its owner or as root",
                handle.process().pid
            ),
        };
        handle.signal(signal).map(drop).map_err(denied)
    }

    fn end_wrapper(&self, pid: u32, id: FileId) -> Result<Waited> {
        let Some(wrapper) = self.open(pid, id)? else { return Ok(Waited::Ended) };
        self.signal(&wrapper, Signal::TERM)?;
        self.signal(&wrapper, Signal::CONT)?;
        match self.wait(std::slice::from_ref(&wrapper), self.deadline())? {
            Waited::TimeIsUp => {}
            waited => return Ok(waited),
        }
        kill_tree_of(&wrapper).map_err(|e| Error::io("end the descendants of", format!("/proc/{pid}"), e))?;
        match self.wait(std::slice::from_ref(&wrapper), Instant::now().checked_add(RECORDING))? {
            Waited::TimeIsUp => {}
            waited => return Ok(waited),
        }
        self.signal(&wrapper, Signal::KILL)?;
        self.wait(std::slice::from_ref(&wrapper), None)
    }

    fn end_orphans(&self, who: &[u32], id: FileId) -> Result<Waited> {
        let mut handles = Vec::new();
        for pid in who {
            handles.extend(self.open(*pid, id)?);
        }
        for handle in &handles {
            self.signal(handle, Signal::TERM)?;
            self.signal(handle, Signal::CONT)?;
        }
        match self.wait(&handles, self.deadline())? {
            Waited::TimeIsUp => {}
            waited => return Ok(waited),
        }
        // Again from the start: some may have let go of the lock, and are nobody's business any more.
        let mut left = Vec::new();
        for pid in self.keepers(id)? {
            left.extend(self.open(pid, id)?);
        }
        for handle in &left {
            self.signal(handle, Signal::KILL)?;
        }
        self.wait(&left, None)
    }

    fn deadline(&self) -> Option<Instant> {
        if self.grace.is_zero() { None } else { Instant::now().checked_add(self.grace) }
    }

    /// Waits until all of them have ended.
    fn wait(&self, handles: &[Handle], until: Option<Instant>) -> Result<Waited> {
        let failed = |e| Error::io("wait for the holder of", self.locks.path_of(self.file), e);
        for handle in handles {
            while !handle.has_ended() {
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                if left.is_some_and(|left| left.is_zero()) {
                    return Ok(Waited::TimeIsUp);
                }
                let mut fds = vec![PollFd::new(handle, PollFlags::IN)];
                fds.extend(self.interrupt.map(|signals| PollFd::new(signals, PollFlags::IN)));
                wait_for(&mut fds, left).map_err(failed)?;
                if let Some(signals) = self.interrupt {
                    if let Some(signal) = super::supervise::ending_signal(signals).map_err(failed)? {
                        return Ok(Waited::Interrupted(signal));
                    }
                }
            }
        }
        Ok(Waited::Ended)
    }
}

/// A job whose runs are to end.
pub(crate) struct StopJob<'a> {
    pub(crate) state: &'a StateDir,
    pub(crate) job: &'a Name,
    /// Until KILL; zero sends none.
    pub(crate) grace: Duration,
}

/// Ends every run of a job, without a successor. Gives how many there were.
///
/// # Errors
/// `NoSuchJob`; `Denied` when a process that keeps the lock is somebody else's.
pub(crate) fn stop(what: &StopJob) -> Result<u32> {
    let unknown =
        || Error::NoSuchJob { job: what.job.clone(), why: "`triplock status` shows those there are".to_owned() };
    let dir = JobFiles::directory(what.state)?.ok_or_else(unknown)?;
    let files = JobFiles::new(dir, what.job.clone());
    if !files.exist()? {
        return Err(unknown());
    }
    let ledger = JobLedger::new(files.clone(), Arc::new(Identity::current()), Arc::new(SystemClock));
    let locks = ledger.locks();
    let mut ended = 0;
    for slot in files.slots()? {
        let file = files.lock(slot);
        let (request, grace) = (Request::Stop, what.grace);
        let stop = Stop { locks: &locks, ledger: &ledger, file: &file, slot, request, grace, interrupt: None };
        ended += u32::from(stop.end()? == Stopped::Gone);
    }
    Ok(ended)
}
