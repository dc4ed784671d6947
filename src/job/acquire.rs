//! Getting the locks of a run: a slot of its job, then the named locks in byte order.
//!
//! The order is what makes deadlock impossible: every run takes its job's lock first and then the named ones in one
//! order, so of several runs that wait for each other's locks one always has all it waits for.
//!
//! `--policy replace` has a lock of its own, `NAME.turn`: one replacement at a time ends the run there is and takes its
//! place, and the next one replaces that. Without it, twenty replacements at once would all end the same run, queue
//! behind each other, and the nineteenth would wait for a run that it was to replace. The turn is given back once the
//! lock is ours.

use std::time::{Duration, Instant};

use super::{
    files::JobFiles,
    holding::By,
    ledger::JobLedger,
    model::{Request, Running},
    options::{Options, Policy},
    stop::{Stop, Stopped},
    supervise::pause,
};
use crate::{
    error::{Error, Result},
    held::Held,
    lock::{Acquire, Deferred, FileGuard, FileLock, Holder, Missing, Until, arrived},
    name::Name,
    process::{LockTable, Signals},
};

/// How long a replacement rests that cannot see whom to end.
const UNSEEN: Duration = Duration::from_millis(20);

/// The locks of a run.
pub(super) struct Locks {
    pub(super) slot: u32,
    pub(super) job: FileGuard,
    /// The named ones, in the order in which they were taken.
    pub(super) named: Vec<FileGuard>,
    /// How long it took.
    pub(super) waited: Duration,
}

/// What asking for them came to.
pub(super) enum Acquired {
    Granted(Locks),
    /// Somebody holds that lock.
    Busy {
        lock: String,
        by: By,
        waited: Duration,
    },
    /// An ancestor of ours holds that lock.
    Nested {
        lock: Name,
        waited: Duration,
    },
    /// A signal ended the wait.
    Interrupted {
        signal: i32,
        waited: Duration,
    },
}

/// Who asks, and for what.
pub(super) struct Asking<'a> {
    pub(super) files: &'a JobFiles,
    pub(super) options: &'a Options,
    pub(super) ledger: &'a JobLedger,
    /// The job's own.
    pub(super) locks: &'a FileLock,
    /// Those of `locks/`, when some were named.
    pub(super) named: Option<&'a FileLock>,
    pub(super) held: &'a Held,
    /// Told before a wait: which lock, and who holds it.
    pub(super) announce: &'a dyn Fn(&str, Option<&Holder>),
}

/// Why a lock was not had.
enum Not {
    Busy(Option<Holder>),
    Nested,
    Interrupted(i32),
}

impl Asking<'_> {
    pub(super) fn acquire(&self) -> Result<Acquired> {
        let begun = Instant::now();
        let until = match self.options.policy {
            Policy::Skip => Until::Now,
            Policy::Wait(wait) => wait.until(),
            Policy::Replace => Until::Never,
        };
        let (slot, job) = match self.slot(until)? {
            Ok(granted) => granted,
            Err(not) => return Ok(Self::failed(not, self.locks, &self.slots(), &self.files.job, None, begun)),
        };
        let mut named = Vec::new();
        if let Some(locks) = self.named {
            for name in &self.options.locks {
                let key = format!("locks/{name}");
                let file = format!("{name}.lock");
                match self.one(locks, name, &file, &key, until, true)? {
                    Ok(guard) => named.push(guard),
                    Err(not) => return Ok(Self::failed(not, locks, &[file], name, Some(key), begun)),
                }
            }
        }
        Ok(Acquired::Granted(Locks { slot, job, named, waited: begun.elapsed() }))
    }

    /// `key`: how a lock is called that is not the job's own.
    fn failed(
        not: Not,
        locks: &FileLock,
        files: &[String],
        name: &Name,
        key: Option<String>,
        begun: Instant,
    ) -> Acquired {
        let waited = begun.elapsed();
        match not {
            Not::Busy(noted) => {
                let lock = key.unwrap_or_else(|| name.as_str().to_owned());
                Acquired::Busy { lock, by: By::find(locks, files, noted), waited }
            }
            Not::Nested => Acquired::Nested { lock: name.clone(), waited },
            Not::Interrupted(signal) => Acquired::Interrupted { signal, waited },
        }
    }

    /// The lock files of the job's slots.
    fn slots(&self) -> Vec<String> {
        (1..=self.options.slots).map(|slot| self.files.lock(slot)).collect()
    }

    /// A slot of the job.
    fn slot(&self, until: Until) -> Result<Result<(u32, FileGuard), Not>> {
        let files = self.slots();
        let holder = match self.free_slot(&files)? {
            Ok(granted) => return Ok(Ok(granted)),
            Err(Not::Busy(holder)) if until != Until::Now => holder,
            Err(not) => return Ok(Err(not)),
        };
        let job = &self.files.job;
        (self.announce)(job.as_str(), holder.as_ref());
        if self.options.policy == Policy::Replace {
            return self.replace(&files);
        }
        if let [file] = files.as_slice() {
            return Ok(self.one(self.locks, job, file, job.as_str(), until, false)?.map(|guard| (1, guard)));
        }
        let signals = Signals::take().map_err(|e| Error::io("take the signals of", "this process", e))?;
        loop {
            match self.locks.acquire_any(job, &files, until, std::os::fd::AsFd::as_fd(&signals)) {
                Ok(Acquire::Granted((at, guard))) => return Ok(Ok((number(at), guard))),
                Ok(Acquire::Held(holder)) => return Ok(Err(Not::Busy(holder))),
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::Interrupted => {
                    if let Some(signal) = interruption(&signals)? {
                        return Ok(Err(Not::Interrupted(signal)));
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The first slot that is free.
    fn free_slot(&self, files: &[String]) -> Result<Result<(u32, FileGuard), Not>> {
        let job = &self.files.job;
        let (mut last, mut ours) = (None, 0);
        for (at, file) in files.iter().enumerate() {
            match self.locks.acquire_named_file(job, file.clone(), Missing::Create, Until::Now, None)? {
                Some(Acquire::Granted(guard)) => return Ok(Ok((number(at), guard))),
                Some(Acquire::Held(holder)) => {
                    ours += usize::from(self.is_ancestors(self.locks, file, job.as_str(), holder.as_ref()));
                    last = holder.or(last);
                }
                None => {}
            }
        }
        Ok(Err(if ours == files.len() { Not::Nested } else { Not::Busy(last) }))
    }

    /// Whether a run that we belong to has that lock. Its note is believed only if the kernel names its process, or does not
    /// tell: a note is left behind, and who holds the lock now may have written none, or not yet.
    fn is_ancestors(&self, locks: &FileLock, file: &str, lock: &str, holder: Option<&Holder>) -> bool {
        let Some(holder) = holder.filter(|holder| self.held.contains(lock, holder.fence)) else { return false };
        let (Ok(Some((_, id))), Ok(table)) = (locks.note_of(file), LockTable::read()) else { return true };
        let takers = table.takers(id);
        takers.is_empty() || takers.contains(&holder.pid) || takers.contains(&0)
    }

    /// One lock of one file.
    fn one(
        &self,
        locks: &FileLock,
        name: &Name,
        file: &str,
        key: &str,
        until: Until,
        announce: bool,
    ) -> Result<Result<FileGuard, Not>> {
        let ask = |until| {
            let acquired = locks.acquire_named_file(name, file.to_owned(), Missing::Create, until, None)?;
            Ok::<_, Error>(acquired.expect("a missing lock file is created"))
        };
        let holder = match ask(Until::Now)? {
            Acquire::Granted(guard) => return Ok(Ok(guard)),
            Acquire::Held(holder) => holder,
        };
        if self.is_ancestors(locks, file, key, holder.as_ref()) {
            return Ok(Err(Not::Nested));
        }
        if until == Until::Now {
            return Ok(Err(Not::Busy(holder)));
        }
        if announce {
            (self.announce)(key, holder.as_ref());
        }
        // TERM, INT and HUP end the wait, and are recorded.
        let _deferred = Deferred::begin();
        match ask(until) {
            Ok(Acquire::Granted(guard)) => Ok(match arrived() {
                Some(signal) => Err(Not::Interrupted(signal)),
                None => Ok(guard),
            }),
            Ok(Acquire::Held(holder)) => Ok(Err(Not::Busy(holder))),
            Err(e) => match arrived() {
                Some(signal) => Ok(Err(Not::Interrupted(signal))),
                None => Err(e),
            },
        }
    }

    /// Ends the longest run of the job and takes its place.
    fn replace(&self, files: &[String]) -> Result<Result<(u32, FileGuard), Not>> {
        let turn = format!("{}.turn", self.files.job);
        let _turn = match self.one(self.locks, &self.files.job, &turn, &turn, Until::Never, false)? {
            Ok(turn) => turn,
            Err(not) => return Ok(Err(not)),
        };
        let signals = Signals::take().map_err(|e| Error::io("take the signals of", "this process", e))?;
        loop {
            match self.free_slot(files)? {
                Err(Not::Busy(_)) => {}
                other => return Ok(other),
            }
            let totals = self.ledger.totals()?;
            // Not one that we belong to: it would take us with it.
            let ends = |running: &&Running| {
                running.slot <= self.options.slots && !self.held.contains(self.files.job.as_str(), running.fence)
            };
            let oldest = totals.running.iter().filter(ends).min_by_key(|running| running.run);
            let slot = oldest.map_or(1, |running| running.slot);
            let stop = Stop {
                locks: self.locks,
                ledger: self.ledger,
                file: &files[slot as usize - 1],
                slot,
                request: Request::Replace,
                grace: self.options.grace(),
                interrupt: Some(&signals),
            };
            match stop.end()? {
                Stopped::Gone => {}
                Stopped::Interrupted(signal) => return Ok(Err(Not::Interrupted(signal))),
                // Somebody whom we cannot see has it, or had it a moment ago.
                Stopped::NothingThere => {
                    if let Some(signal) = pause(&signals, UNSEEN).map_err(|e| Error::io("wait for", "a signal", e))? {
                        return Ok(Err(Not::Interrupted(signal)));
                    }
                }
            }
        }
    }
}

/// The slot at that place in the list of lock files.
fn number(at: usize) -> u32 {
    u32::try_from(at).expect("a job has few slots") + 1
}

fn interruption(signals: &Signals) -> Result<Option<i32>> {
    super::supervise::ending_signal(signals).map_err(|e| Error::io("read the signals of", "this process", e))
}
