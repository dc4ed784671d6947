//! `flock --job NAME`: the run, or that there was none, in a job's ledger.
//!
//! The lock is the file's that was named, so the job's own lock and its slots are not taken, and such a run has a slot
//! number above theirs. What tells runs of different files apart is `file`, the device and inode that was locked.
//!
//! A wrapper that is killed leaves a start without an end. Whoever next gets the same file exclusively while that wrapper
//! is gone knows that nobody holds the lock any more, and records the run as lost; a shared lock proves nothing.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use rustix::process::{Pid, test_kill_process};

use super::{
    arguments::{Operation, Record, Target},
    locked::Opened,
    message::Failure,
};
use crate::{
    clock::{Clock as _, SystemClock},
    dir::{Environment, StateDir},
    error::{Error, Result},
    job::{
        Appended, Ended, Event, Fences, JobFiles, JobLedger, NotRun, Options, Outcome, Place, RunId, Running, Started,
        Totals, remains, seconds,
    },
    lock::{Fence, Holder, Identity, holder_in, shortened},
    process::{self, SpawnError, Status},
};

/// The ledger of the job, and what is to be said of the run in it.
pub(super) struct Ledger {
    ledger: JobLedger,
    files: JobFiles,
    host: String,
    place: Place,
    command: String,
    path: String,
    /// Device and inode of what is locked.
    file: (u64, u64),
    /// What the file itself says of its holder.
    note: Option<Holder>,
    exclusive: bool,
}

impl Ledger {
    pub(super) fn open(
        record: &Record,
        target: &Target,
        opened: &Opened,
        operation: Operation,
    ) -> Result<Self, Failure> {
        Self::try_open(record, target, opened, operation).map_err(|e| failure(&e))
    }

    fn try_open(record: &Record, target: &Target, opened: &Opened, operation: Operation) -> Result<Self> {
        let Target::File { path, command } = target else {
            return Err(Error::Usage("--job records the run of a command".to_owned()));
        };
        let path = path.to_string_lossy().into_owned();
        let metadata = opened.metadata().map_err(|e| Error::io("stat", &path, e))?;
        let dir = match &record.state.dir {
            Some(dir) => dir.clone(),
            None => StateDir::default_path(&Environment::current())?,
        };
        let state = StateDir::open(dir, record.state.allow_network_fs)?;
        let files = JobFiles::new(JobFiles::make_directory(&state)?, record.job.clone());
        let identity = Identity::current();
        let host = identity.host().to_owned();
        Ok(Self {
            ledger: JobLedger::new(files.clone(), Arc::new(identity), Arc::new(SystemClock)),
            files,
            host,
            place: Place::current()?,
            command: shortened(command.iter()),
            path,
            file: (metadata.dev(), metadata.ino()),
            note: if metadata.is_file() { holder_in(opened) } else { None },
            exclusive: operation == Operation::Exclusive,
        })
    }

    /// Records that somebody else has the lock.
    pub(super) fn not_run(self, waited: Duration) -> Result<(), Failure> {
        let append = |totals: &Totals| {
            vec![Event::NotRun(NotRun {
                run: totals.next_run(),
                outcome: Outcome::Skipped,
                reason: format!("{} is locked", self.path),
                holder: self.holder(totals),
                wait: seconds(waited),
                command: self.command.clone(),
                queued: false,
            })]
        };
        self.append(append).map(drop)
    }

    /// Records that the command is about to start.
    pub(super) fn start(self, waited: Duration) -> Result<Recorded, Failure> {
        let mut started = None;
        let appended = self.append_start(|totals, fences| {
            let lost = totals.running.iter().filter(|running| self.is_over(running));
            let lost: Vec<_> = lost.filter_map(|running| remains(totals, running.slot, &self.place.boot)).collect();
            let taken = |slot: &u32| {
                totals.in_slot(*slot).is_some_and(|running| lost.iter().all(|lost| lost.run != running.run))
            };
            let mut slots = Options::MAX_SLOTS + 1..;
            let start = Started {
                run: totals.next_run(),
                attempt: 1,
                // Nobody is shown it, so it is neither reserved nor synced before the command.
                fence: fences.next(totals, Fence(0)).fence,
                slot: slots.find(|slot| !taken(slot)).unwrap_or(u32::MAX),
                wait: seconds(waited),
                command: self.command.clone(),
                boot: self.place.boot.clone(),
                pid_namespace: self.place.pid_namespace,
                file: Some(self.file),
                reserved: 0,
                lease: None,
                tick: None,
                queued: false,
            };
            started = Some((start.run, start.fence));
            lost.into_iter().map(Event::Ended).chain([Event::Started(start)]).collect()
        })?;
        let (run, fence) = started.unwrap_or((RunId(appended.totals.last_run), Fence(appended.totals.fence)));
        let start = appended.entries.last().map_or_else(|| SystemClock.now(), |entry| entry.time);
        Ok(Recorded { ledger: self, run, fence, start, began: Instant::now(), waited })
    }

    /// A run of the same file whose wrapper is gone, while we have the file for ourselves.
    fn is_over(&self, running: &Running) -> bool {
        self.exclusive && running.file == Some(self.file) && !self.has_wrapper(running)
    }

    fn has_wrapper(&self, running: &Running) -> bool {
        let pid = i32::try_from(running.pid).ok().and_then(Pid::from_raw);
        // One that may not be signalled is there.
        running.boot == self.place.boot
            && (running.pid_namespace != self.place.pid_namespace
                || pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH)))
    }

    /// Who has the lock: a run that the ledger knows (one whose wrapper is gone may live on), else whoever left a note in
    /// the file.
    fn holder(&self, totals: &Totals) -> Option<Holder> {
        let ours = || totals.running.iter().filter(|running| running.file == Some(self.file));
        let with_wrapper = ours().find(|running| self.has_wrapper(running));
        let running = with_wrapper.or_else(|| ours().find(|running| running.boot == self.place.boot));
        let Some(running) = running else { return self.note.clone() };
        let entries = self.files.entries_backwards().ok()?;
        let command = entries.flatten().find_map(|entry| match entry.event {
            Event::Started(started) if started.run == running.run => Some(started.command),
            _ => None,
        });
        Some(Holder {
            pid: running.pid,
            host: self.host.clone(),
            since: running.start,
            command: command.unwrap_or_default(),
            fence: running.fence,
        })
    }

    fn append(&self, decide: impl FnOnce(&Totals) -> Vec<Event>) -> Result<Appended, Failure> {
        self.ledger.append(decide).map_err(|e| failure(&e))
    }

    fn append_start(&self, decide: impl FnOnce(&Totals, &Fences) -> Vec<Event>) -> Result<Appended, Failure> {
        self.ledger.append_start(&self.place.boot, decide).map_err(|e| failure(&e))
    }
}

/// A run whose start is in the ledger.
pub(super) struct Recorded {
    ledger: Ledger,
    run: RunId,
    fence: Fence,
    start: DateTime<Utc>,
    began: Instant,
    waited: Duration,
}

impl Recorded {
    /// Records how it ended, and returns when that is on disk.
    pub(super) fn end(self, ended: &Result<io::Result<process::Ended>, SpawnError>) -> Result<(), Failure> {
        let duration = self.began.elapsed();
        let (known, reason) = match ended {
            Ok(Ok(ended)) => (Some(ended), None),
            Ok(Err(e)) => (None, Some(format!("nobody knows how it ended: {e}"))),
            Err(SpawnError::NotFound(e) | SpawnError::NotExecutable(e)) => {
                (None, Some(format!("the command cannot be executed: {e}")))
            }
            Err(SpawnError::Failed(e)) => (None, Some(format!("no process could be made: {e}"))),
        };
        let (outcome, exit, signal) = match known.map(|ended| ended.status) {
            Some(Status::Exited(0)) => (Outcome::Succeeded, Some(0), None),
            Some(Status::Exited(code)) => (Outcome::Failed, Some(code), None),
            Some(Status::Killed(signal)) => (Outcome::Failed, None, Some(signal)),
            None => (Outcome::NotStarted, None, None),
        };
        let usage = known.map_or_else(process::Usage::default, |ended| ended.usage);
        let event = Event::Ended(Ended {
            run: self.run,
            attempt: 1,
            outcome,
            again: false,
            exit,
            signal,
            code: None,
            start: self.start,
            duration: seconds(duration),
            user: seconds(usage.user),
            system: seconds(usage.system),
            peak_memory: usage.peak_memory,
            fence: self.fence,
            wait: seconds(self.waited),
            reason,
        });
        let appended = self.ledger.append(|_| vec![event])?;
        appended.sync().map_err(|e| failure(&e))
    }
}

/// Our errors, said as flock(1) says its own.
fn failure(error: &Error) -> Failure {
    Failure::new(error.exit_code().code(), &[error.to_string().as_bytes()])
}
