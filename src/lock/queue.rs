//! Queue locks: a [`FileLock`] whose waiters are served strictly in the order in which they came. The order is that of
//! the tickets of a lane, which [`super::lane`] explains: who has one has come.
//!
//! The lock is the file that a [`FileLock`] of the same name takes, so the two keep each other out; but a `FileLock` asks
//! nobody who waits, and overtakes.

use std::sync::Arc;

use super::{
    Acquire, FileGuard, FileLock, Holder, Identity, Lane, Lock, LossMode, Ticket, Until, Wait, held_file::Missing,
};
use crate::{
    clock::Clock,
    dir::StateDir,
    error::{Error, Result},
    name::Name,
};

/// The locks of one directory, each with a line in front of it.
#[derive(Debug, Clone)]
pub struct QueueLock {
    file: FileLock,
}

impl QueueLock {
    /// The locks of the state directory's `locks/`, as [`FileLock::named`].
    pub fn named(state: &StateDir, identity: Identity, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self { file: FileLock::named(state, identity, clock)? })
    }

    /// A place at the end of the line. `run`: as [`Lane::take`] has it.
    ///
    /// # Errors
    /// `Reentrant` when this thread holds the lock: the line would not move before it let go.
    pub(crate) fn take_ticket(&self, name: &Name, run: u64) -> Result<Ticket> {
        if self.file.is_held_here(name)? {
            return Err(Error::Reentrant(name.clone()));
        }
        Lane::make(self.file.dir(), name.as_str())?.take(run)
    }

    /// Waits for the turn of that ticket and for the lock. The ticket is given up, whatever comes of it.
    pub(crate) fn wait_in_line(&self, name: &Name, ticket: &Ticket, until: Until) -> Result<Acquire<FileGuard>> {
        let waited = self.wait_with(name, ticket, until);
        ticket.leave();
        waited
    }

    fn wait_with(&self, name: &Name, ticket: &Ticket, until: Until) -> Result<Acquire<FileGuard>> {
        let asked = ticket.wait_for(until, || {
            Ok(match self.ask(name, until)? {
                Acquire::Granted(guard) => Ok(guard),
                Acquire::Held(holder) => Err(holder),
            })
        })?;
        match asked {
            Some(Ok(guard)) => Ok(Acquire::Granted(guard)),
            Some(Err(holder)) => Ok(Acquire::Held(holder)),
            None => self.holder_of(name).map(Acquire::Held),
        }
    }

    fn has_waiters(&self, name: &Name) -> Result<bool> {
        match Lane::open(self.file.dir(), name.as_str())? {
            Some(lane) => lane.has_waiters(),
            None => Ok(false),
        }
    }

    fn ask(&self, name: &Name, until: Until) -> Result<Acquire<FileGuard>> {
        let acquired = self.file.acquire_file(name, Missing::Create, until, None)?;
        Ok(acquired.expect("a missing lock file is created"))
    }

    /// Who has it or had it last: a hint, read without trying the lock.
    fn holder_of(&self, name: &Name) -> Result<Option<Holder>> {
        Ok(self.file.note_of(&format!("{name}.lock"))?.and_then(|(holder, _)| holder))
    }
}

impl Lock for QueueLock {
    type Guard = FileGuard;

    fn acquire(&self, name: &Name, wait: Wait) -> Result<Acquire<FileGuard>> {
        let until = wait.until();
        if self.has_waiters(name)? {
            if until == Until::Now {
                return self.holder_of(name).map(Acquire::Held);
            }
        } else {
            let tried = self.ask(name, Until::Now)?;
            if until == Until::Now || matches!(tried, Acquire::Granted(_)) {
                return Ok(tried);
            }
        }
        self.wait_in_line(name, &self.take_ticket(name, 0)?, until)
    }

    fn loss_mode(&self) -> LossMode {
        self.file.loss_mode()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _, sync::Mutex, thread};

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn who_has_the_lock_gives_it_back_to_one_that_stepped_in_front() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path(), false).unwrap();
        let lock = QueueLock::named(&state, Identity::current(), Arc::new(SystemClock)).unwrap();
        let name: Name = "1".parse().unwrap();
        // Whether somebody sleeps for a lock of that kind on that file, as the kernel tells.
        let sleeps = |kind: &str, file: &str| {
            let inode = format!(":{} ", fs::metadata(directory.path().join("locks").join(file)).unwrap().ino());
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|line| line.contains(&format!("-> {kind} ")) && line.contains(&inode))
        };
        let get = |wait| lock.file.acquire(&name, wait).unwrap().granted().unwrap();
        let served = Mutex::new(Vec::new());
        let held = get(Wait::No);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _held = lock.acquire(&name, Wait::Forever).unwrap().granted().unwrap();
                served.lock().unwrap().push("waiter");
            });
            while !sleeps("FLOCK", "1.lock") {
                thread::yield_now();
            }
            let front = Lane::make(lock.file.dir(), name.as_str()).unwrap().take_front().unwrap();
            drop(held);
            while !sleeps("OFDLCK", "1.lane") && served.lock().unwrap().is_empty() {
                thread::yield_now();
            }
            let held = get(Wait::Forever);
            served.lock().unwrap().push("front");
            front.leave();
            drop(held);
        });
        assert_eq!(served.into_inner().unwrap(), ["front", "waiter"]);
    }
}
