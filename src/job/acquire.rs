//! Getting the locks of a run: a slot of its job, then the named locks in byte order.
//!
//! The order is what makes deadlock impossible: every run takes its job's lock first and then the named ones in one
//! order, so of several runs that wait for each other's locks one always has all it waits for. (To stand in a lane is no
//! exception: who is first in it waits for the lock alone.)
//!
//! Who waits does so in the lock's lane, which says why ([`crate::lock::Lane`]).
//!
//! `--policy replace` has a lock of its own, `NAME.turn`: one replacement at a time ends the run there is and takes its
//! place, and the next one replaces that. Without it, twenty replacements at once would all end the same run, queue
//! behind each other, and the nineteenth would wait for a run that it was to replace. Who has the turn stands in front of
//! everybody in the lane; otherwise it would end the run, find the first in line running, end that one too, and so on to
//! the end of the line. The turn is given back once the lock is ours.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

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
    lock::{Acquire, Deferred, Fence, FileGuard, FileLock, Holder, Missing, Ticket, Until, arrived},
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
    /// The places in their lanes, to be given up once the start is recorded.
    tickets: Vec<Ticket>,
    /// What the command inherits: the locks, and of a queued run what shows that it is not over.
    pub(super) inherited: Vec<OwnedFd>,
    /// How long it took.
    pub(super) waited: Duration,
}

impl Locks {
    /// The start is recorded: the next in line may wait for the locks.
    pub(super) fn leave_lanes(&mut self) {
        self.tickets.clear();
    }
}

/// What asking for them came to.
pub(super) enum Acquired {
    Granted(Locks),
    /// Somebody holds that lock, or waits for it.
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
    /// The place that a queued run has in the job's lane already.
    pub(super) ticket: Option<&'a Ticket>,
    /// Told before a wait: which lock, and who holds it.
    pub(super) announce: &'a dyn Fn(&str, Option<&Holder>),
}

/// Why a lock was not had.
enum Not {
    Busy(Option<Holder>),
    /// Others wait for it.
    Behind(Option<Holder>),
    Nested,
    Interrupted(i32),
}

/// One lock that is wanted: any of these files.
struct Wanted<'a> {
    locks: &'a FileLock,
    name: &'a Name,
    files: &'a [String],
    /// How it is called.
    key: &'a str,
}

/// One of its files, and the place in its lane that we still have.
struct Had {
    slot: u32,
    guard: FileGuard,
    ticket: Option<Ticket>,
}

impl Asking<'_> {
    pub(super) fn acquire(&self) -> Result<Acquired> {
        let begun = Instant::now();
        let until = match self.options.policy {
            Policy::Skip => Until::Now,
            Policy::Wait(wait) => wait.until(),
            Policy::Replace => Until::Never,
        };
        let job = &self.files.job;
        let files: Vec<_> = (1..=self.options.slots).map(|slot| self.files.lock(slot)).collect();
        let wanted = Wanted { locks: self.locks, name: job, files: &files, key: job.as_str() };
        let had = match self.ticket {
            Some(ticket) => {
                Self::in_line(&wanted, until, ticket)?.map(|(slot, guard)| Had { slot, guard, ticket: None })
            }
            None => self.one(&wanted, until, self.options.policy == Policy::Replace)?,
        };
        let Had { slot, guard: job, ticket } = match had {
            Ok(had) => had,
            Err(not) => return Ok(wanted.failed(not, begun)),
        };
        let mut tickets: Vec<_> = ticket.into_iter().collect();
        let mut named = Vec::new();
        if let Some(locks) = self.named {
            for name in &self.options.locks {
                let (key, files) = (format!("locks/{name}"), [format!("{name}.lock")]);
                let wanted = Wanted { locks, name, files: &files, key: &key };
                match self.one(&wanted, until, false)? {
                    Ok(Had { guard, ticket, .. }) => {
                        named.push(guard);
                        tickets.extend(ticket);
                    }
                    Err(not) => return Ok(wanted.failed(not, begun)),
                }
            }
        }
        let held = std::iter::once(&job).chain(&named).map(FileGuard::descriptor);
        let inherited = held.chain(self.ticket.map(Ticket::descriptor)).map(out_of_the_way).collect::<Result<_, _>>();
        let inherited = inherited.map_err(|e| Error::io("share", job.path(), e))?;
        Ok(Acquired::Granted(Locks { slot, job, named, tickets, inherited, waited: begun.elapsed() }))
    }

    /// One lock.
    fn one(&self, wanted: &Wanted<'_>, until: Until, replace: bool) -> Result<Result<Had, Not>> {
        let had = |(slot, guard)| Had { slot, guard, ticket: None };
        let others_wait = match wanted.locks.lane(wanted.name)? {
            Some(lane) => lane.has_waiters()?,
            None => false,
        };
        let holder = if others_wait {
            if self.is_ours(wanted)? {
                return Ok(Err(Not::Nested));
            }
            wanted.noted()?
        } else {
            match self.free(wanted)? {
                Ok(free) => return Ok(Ok(had(free))),
                Err(Not::Busy(holder)) => holder,
                Err(not) => return Ok(Err(not)),
            }
        };
        if until == Until::Now {
            return Ok(Err(if others_wait { Not::Behind(holder) } else { Not::Busy(holder) }));
        }
        (self.announce)(wanted.key, holder.as_ref());
        if replace {
            return Ok(self.replace(wanted)?.map(had));
        }
        let ticket = wanted.locks.make_lane(wanted.name)?.take(0)?;
        let line = Self::in_line(wanted, until, &ticket)?;
        Ok(line.map(|(slot, guard)| Had { slot, guard, ticket: Some(ticket) }))
    }

    /// The first of its files that is free.
    fn free(&self, wanted: &Wanted<'_>) -> Result<Result<(u32, FileGuard), Not>> {
        let (mut last, mut ours) = (None, BTreeSet::new());
        for (at, file) in wanted.files.iter().enumerate() {
            match wanted.locks.acquire_named_file(wanted.name, file.clone(), Missing::Create, Until::Now, None)? {
                Some(Acquire::Granted(guard)) => return Ok(Ok((number(at), guard))),
                Some(Acquire::Held(holder)) => {
                    ours.extend(self.of_ancestor(wanted, file, holder.as_ref()));
                    last = holder.or(last);
                }
                None => {}
            }
        }
        Ok(Err(if ours.len() == wanted.files.len() { Not::Nested } else { Not::Busy(last) }))
    }

    /// Whether runs that we belong to have all of its files.
    fn is_ours(&self, wanted: &Wanted<'_>) -> Result<bool> {
        let mut ours = BTreeSet::new();
        for file in wanted.files {
            let holder = wanted.locks.note_of(file)?.and_then(|(holder, _)| holder);
            ours.extend(self.of_ancestor(wanted, file, holder.as_ref()));
        }
        Ok(ours.len() == wanted.files.len())
    }

    /// The fence by which a run that we belong to has that lock. Its note is believed only if the kernel names its process, or
    /// does not tell: a note is left behind, and who holds the lock now may have written none, or not yet. (A run that is
    /// about to start in one slot may have noted the fence that another slot's has; so each counts once.)
    fn of_ancestor(&self, wanted: &Wanted<'_>, file: &str, holder: Option<&Holder>) -> Option<Fence> {
        let holder = holder.filter(|holder| self.held.contains(wanted.key, holder.fence))?;
        let (Ok(Some((_, id))), Ok(table)) = (wanted.locks.note_of(file), LockTable::read()) else {
            return Some(holder.fence);
        };
        let takers = table.takers(id);
        let is_its = takers.is_empty() || takers.contains(&holder.pid) || takers.contains(&0);
        is_its.then_some(holder.fence)
    }

    /// One of its files, in our turn.
    fn in_line(wanted: &Wanted<'_>, until: Until, ticket: &Ticket) -> Result<Result<(u32, FileGuard), Not>> {
        // TERM, INT and HUP end the wait, and are recorded.
        let _deferred = Deferred::begin();
        let interrupted = || arrived().map(|signal| Err(Not::Interrupted(signal)));
        // A signal that came before the second wait would not end that.
        let had = ticket.wait_for(until, || interrupted().map_or_else(|| wanted.wait(until), Ok));
        match had {
            Ok(Some(had)) => Ok(had),
            Ok(None) => interrupted().map_or_else(|| Ok(Err(Not::Behind(wanted.noted()?))), Ok),
            Err(e) => interrupted().ok_or(e),
        }
    }

    /// Ends the longest run of the job and takes its place.
    fn replace(&self, wanted: &Wanted<'_>) -> Result<Result<(u32, FileGuard), Not>> {
        let turn = [format!("{}.turn", self.files.job)];
        let _deferred = Deferred::begin();
        let _turn = match (Wanted { key: &turn[0], files: &turn, ..*wanted }).wait(Until::Never)? {
            Ok(turn) => turn,
            Err(not) => return Ok(Err(not)),
        };
        let _in_front = self.locks.make_lane(wanted.name)?.take_front()?;
        let signals = Signals::take().map_err(|e| Error::io("take the signals of", "this process", e))?;
        loop {
            match self.free(wanted)? {
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
                file: &wanted.files[slot as usize - 1],
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

impl Wanted<'_> {
    /// Sleeps until one of its files is free.
    fn wait(&self, until: Until) -> Result<Result<(u32, FileGuard), Not>> {
        let waited = match self.files {
            [file] => {
                let acquired = self.locks.acquire_named_file(self.name, file.clone(), Missing::Create, until, None);
                acquired.map(|acquired| acquired.expect("a missing lock file is created").map(|guard| (0, guard)))
            }
            files => {
                let signals = Signals::take().map_err(|e| Error::io("take the signals of", "this process", e))?;
                loop {
                    let acquired = self.locks.acquire_any(self.name, files, until, signals.as_fd());
                    if !acquired.as_ref().is_err_and(is_interruption) {
                        break acquired;
                    }
                    if let Some(signal) = interruption(&signals)? {
                        return Ok(Err(Not::Interrupted(signal)));
                    }
                }
            }
        };
        // One that came before the wait was heard by nobody else.
        if let Some(signal) = arrived() {
            return Ok(Err(Not::Interrupted(signal)));
        }
        Ok(match waited? {
            Acquire::Granted((at, guard)) => Ok((number(at), guard)),
            Acquire::Held(holder) => Err(Not::Busy(holder)),
        })
    }

    /// Who has it, as its first file says.
    fn noted(&self) -> Result<Option<Holder>> {
        Ok(self.locks.note_of(&self.files[0])?.and_then(|(holder, _)| holder))
    }

    fn failed(&self, not: Not, begun: Instant) -> Acquired {
        let waited = begun.elapsed();
        match not {
            Not::Busy(noted) => {
                Acquired::Busy { lock: self.key.to_owned(), by: By::find(self.locks, self.files, noted), waited }
            }
            Not::Behind(noted) => {
                let by = By::find_behind_others(self.locks, self.files, noted);
                Acquired::Busy { lock: self.key.to_owned(), by, waited }
            }
            Not::Nested => Acquired::Nested { lock: self.name.clone(), waited },
            Not::Interrupted(signal) => Acquired::Interrupted { signal, waited },
        }
    }
}

/// A copy of a descriptor whose number no script is likely to use itself: `exec 9>>file` would close the lock behind a 9. (Where
/// there may be so few, a smaller one.)
fn out_of_the_way(descriptor: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let copy = |least| rustix::io::fcntl_dupfd_cloexec(descriptor, least);
    Ok(copy(100).or_else(|_| copy(10)).or_else(|_| copy(3))?)
}

/// The slot at that place in the list of lock files.
fn number(at: usize) -> u32 {
    u32::try_from(at).expect("a job has few slots") + 1
}

fn is_interruption(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::Interrupted)
}

fn interruption(signals: &Signals) -> Result<Option<i32>> {
    super::supervise::ending_signal(signals).map_err(|e| Error::io("read the signals of", "this process", e))
}
