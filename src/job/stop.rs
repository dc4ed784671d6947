//! Ending a run that another process watches over: `stop`, and what `--policy replace` does first.
//!
//! 1. Who keeps the lock is proven: a process with a descriptor whose fdinfo shows the lock. The note in the lock file,
//!    /proc/locks and the ledger only say where to look. Each process is opened as a pidfd and proven again after that,
//!    so a pid that was recycled in between never gets a stranger signalled.
//!    What is to end is one acquisition of the lock, told from the next by who took it: whoever waited for the lock, and
//!    has it once the run is over, has not been asked to end.
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

use chrono::{DateTime, Utc};
use rustix::{
    event::{PollFd, PollFlags},
    process::Signal,
};

use super::{
    files::JobFiles,
    ledger::JobLedger,
    model::{EndRequest, Ended, Event, Request, RunId, Running, seconds},
    place::Place,
    remains::remains,
};
use crate::{
    clock::SystemClock,
    dir::{FileId, StateDir},
    error::{Error, Result},
    lock::{FileLock, Identity, Lane},
    name::Name,
    process::{
        self, Handle, Keeper, Keepers, ProcessInfo, Signals, bytes_of, descendants, keepers, keeps, kill_tree_of,
        wait_for,
    },
};

/// How long a wrapper whose job is gone may take to record that.
const RECORDING: Duration = Duration::from_secs(5);

/// How long a run that has its lock may take to record its start; one that waits for a further lock has none.
const STARTING: Duration = Duration::from_secs(1);

/// How long a wrapper that has just taken its lock may take to say so in the lock file.
const NOTING: Duration = Duration::from_secs(1);

/// The kernel tells a process's age in hundredths of a second.
const TICK: Duration = Duration::from_millis(20);

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

/// What is to end: one acquisition of the lock.
struct Meant {
    /// Who took it. (0 when that cannot be told any more.)
    taker: u32,
    /// Its run, if the ledger knows one.
    run: Option<RunId>,
}

/// What a wait came to.
enum Waited {
    Ended,
    TimeIsUp,
    Interrupted(i32),
}

impl Stop<'_> {
    pub(super) fn end(&self) -> Result<Stopped> {
        let mut meant: Option<Meant> = None;
        loop {
            let Some((_, id)) = self.locks.note_of(self.file)? else { return Ok(Stopped::NothingThere) };
            let keepers = self.keepers(id)?;
            let Some(taker) = meant.as_ref().map(|meant| meant.taker).or(keepers.first().map(|keeper| keeper.taker))
            else {
                self.refuse_to_guess()?;
                return Ok(Stopped::NothingThere);
            };
            // Of just that acquisition: whoever takes the lock after it has not been asked to end.
            let who: Vec<_> = keepers.iter().filter(|keeper| keeper.is_of(taker)).collect();
            let wrapper = who.iter().map(|keeper| keeper.pid).find(|pid| *pid == taker);
            if let (None, Some(wrapper)) = (&meant, wrapper) {
                self.wait_for_its_start(wrapper, id)?;
            }
            let run = match &meant {
                Some(meant) => meant.run,
                None => self.record(taker)?,
            };
            meant = Some(Meant { taker, run });
            let waited = match wrapper {
                Some(wrapper) if self.is_noted(wrapper)? => self.end_wrapper(wrapper, id)?,
                _ if !who.is_empty() => self.end_orphans(taker, &who, id)?,
                _ => {
                    self.conclude(run)?;
                    return Ok(Stopped::Gone);
                }
            };
            if let Waited::Interrupted(signal) = waited {
                return Ok(Stopped::Interrupted(signal));
            }
        }
    }

    /// Every process that is proven to keep the lock, this one excepted: a job may stop itself.
    fn keepers(&self, id: FileId) -> Result<Vec<Keeper>> {
        let failed = |e| Error::io("read", "/proc", e);
        let Keepers { keepers: mut found, unreadable, locked } = keepers(id).map_err(failed)?;
        if found.is_empty() && locked && unreadable > 0 {
            return Err(Error::Denied {
                path: self.locks.path_of(self.file),
                why: "is locked by a process that this user may not look into; stop it as its owner or as root"
                    .to_owned(),
            });
        }
        found.retain(|keeper| keeper.pid != std::process::id());
        Ok(found)
    }

    /// Whether the lock's note is that process's: a run's wrapper leaves one.
    fn is_noted(&self, pid: u32) -> Result<bool> {
        Ok(self.locks.note_of(self.file)?.and_then(|(note, _)| note).is_some_and(|note| note.pid == pid))
    }

    /// A run has its lock a moment before its note is in the lock file, and that a moment before its start is in the
    /// ledger. Ended in such a moment, nobody would know of it.
    fn wait_for_its_start(&self, wrapper: u32, id: FileId) -> Result<()> {
        let since = Instant::now();
        loop {
            // Who leaves no note is a stranger.
            let patience = if self.is_noted(wrapper)? { STARTING } else { NOTING };
            let totals = self.ledger.totals()?;
            let is_recorded = totals.in_slot(self.slot).is_some_and(|running| running.pid == wrapper);
            if is_recorded || since.elapsed() >= patience || !keeps(wrapper, id).unwrap_or(false) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A run of this boot that was started in another pid namespace may go on where its processes cannot be seen.
    fn refuse_to_guess(&self) -> Result<()> {
        let place = Place::current_or_unknown();
        let totals = self.ledger.totals()?;
        match totals.in_slot(self.slot) {
            Some(running) if running.boot == place.boot && !place.is_of(running) => Err(Error::Denied {
                path: self.locks.path_of(self.file),
                why: format!(
                    "run {} was started in another pid namespace, and cannot be seen from here; stop it there",
                    running.run
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The run whose end is now asked for, if the ledger knows it.
    fn record(&self, taker: u32) -> Result<Option<RunId>> {
        let place = Place::current().ok();
        // In another place its process has another number.
        let is_it = |running: &&Running| {
            taker == 0 || running.pid == taker || !place.as_ref().is_some_and(|place| place.is_of(running))
        };
        let queued = self.queued(taker)?;
        let mut asked = None;
        let appended = self.ledger.append(|totals| {
            asked = totals.in_slot(self.slot).filter(is_it).map(|running| running.run).or(queued);
            asked.map(|run| Event::EndRequested(EndRequest { run, request: self.request })).into_iter().collect()
        })?;
        appended.sync()?;
        Ok(asked)
    }

    /// The queued run whose process that is, if it is one: it has the lock, and waits for a further one before it starts.
    fn queued(&self, taker: u32) -> Result<Option<RunId>> {
        let Some(lane) = self.locks.lane(self.ledger.job())? else { return Ok(None) };
        // Who does not let us look will not let us signal it either.
        let bytes = bytes_of(taker, lane.id()).unwrap_or_default();
        Ok(bytes.into_iter().find_map(Lane::run_of).map(RunId))
    }

    /// Records the end of a run whose wrapper did not.
    fn conclude(&self, run: Option<RunId>) -> Result<()> {
        let Some(run) = run else { return Ok(()) };
        let boot = Place::current_or_unknown().boot;
        self.ledger
            .append(|totals| {
                let still_there = totals.in_slot(self.slot).is_some_and(|running| running.run == run);
                if still_there {
                    let over = |left: Ended| {
                        // Its end was waited for.
                        let duration = (self.ledger.now() - left.start).to_std().map_or(0.0, seconds);
                        Event::Ended(Ended { duration, ..left })
                    };
                    remains(totals, self.slot, &boot).map(over).into_iter().collect()
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
        kill_tree_of(&wrapper, &self.strangers(pid)?)
            .map_err(|e| Error::io("end the descendants of", format!("/proc/{pid}"), e))?;
        match self.wait(std::slice::from_ref(&wrapper), Instant::now().checked_add(RECORDING))? {
            Waited::TimeIsUp => {}
            waited => return Ok(waited),
        }
        self.signal(&wrapper, Signal::KILL)?;
        self.wait(std::slice::from_ref(&wrapper), None)
    }

    fn end_orphans(&self, taker: u32, who: &[&Keeper], id: FileId) -> Result<Waited> {
        let mut handles = Vec::new();
        for keeper in who {
            handles.extend(self.open(keeper.pid, id)?);
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
        for keeper in self.keepers(id)?.iter().filter(|keeper| keeper.is_of(taker)) {
            left.extend(self.open(keeper.pid, id)?);
        }
        for handle in &left {
            self.signal(handle, Signal::KILL)?;
        }
        self.wait(&left, None)
    }

    /// Children that the wrapper had before its run began: it was a shell then, and became triplock by `exec`.
    fn strangers(&self, wrapper: u32) -> Result<Vec<ProcessInfo>> {
        let began = self.ledger.totals()?.in_slot(self.slot).map(|running| running.start);
        // Both ages at one moment. Asked for after the listing, which takes its time on a busy machine, the age of the job
        // itself would be that of a stranger, and the job would be spared.
        let (now, uptime) = self.moment();
        let Some(age) = began.and_then(|began| (now - began).to_std().ok()) else { return Ok(Vec::new()) };
        let found = descendants(wrapper).map_err(|e| Error::io("list", "/proc", e))?;
        // A process is as old as the last tick says.
        let is_older = |process: &ProcessInfo| process.parent == wrapper && process.age_at(uptime) > age + TICK;
        Ok(found.into_iter().filter(is_older).collect())
    }

    /// What two clocks say at one moment: whoever is held up between them asks again.
    fn moment(&self) -> (DateTime<Utc>, Duration) {
        loop {
            let (uptime, now) = (process::uptime(), self.ledger.now());
            if process::uptime().saturating_sub(uptime) < Duration::from_millis(1) {
                return (now, uptime);
            }
        }
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

/// What `stop` found.
pub(crate) struct StopCount {
    /// How many runs are over now.
    pub(crate) ended: u32,
    /// A process of a run that holds the lock of a file of its own (`flock --job`), which is not ended here.
    pub(crate) elsewhere: Option<u32>,
}

/// Ends every run of a job, without a successor. `None`: the job has never run.
///
/// # Errors
/// `Denied` when a process that keeps the lock is somebody else's.
pub(crate) fn stop(what: &StopJob) -> Result<Option<StopCount>> {
    let Some(dir) = JobFiles::directory(what.state)? else { return Ok(None) };
    let files = JobFiles::new(dir, what.job.clone());
    if !files.exist()? {
        return Ok(None);
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
    let mut elsewhere = None;
    for (device, inode) in ledger.totals()?.running.iter().filter_map(|running| running.file) {
        let found = keepers(FileId { device, inode }).map_err(|e| Error::io("read", "/proc", e))?;
        elsewhere = elsewhere.or(found.keepers.first().map(|keeper| keeper.pid));
    }
    Ok(Some(StopCount { ended, elsewhere }))
}
