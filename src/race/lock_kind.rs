//! The locks that a race can be run with.

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use super::Place;
use crate::{
    clock::SystemClock,
    dir::StateDir,
    error::Result,
    lock::{Acquire, FileLock, Guard, Identity, Lock, MemoryLock, Wait},
    name::Name,
};

/// Which lock the students take before they check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockKind {
    /// None: everybody walks in.
    None,
    /// A map in the process.
    Memory,
    /// flock(2) on a file.
    File,
}

impl LockKind {
    /// Every kind, in the order of the lesson.
    pub const ALL: [Self; 3] = [Self::None, Self::Memory, Self::File];

    /// The word for it on the command line and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Memory => "memory",
            Self::File => "file",
        }
    }

    /// Whether it keeps out everybody who runs in such a place.
    pub const fn holds_in(self, place: Place) -> bool {
        match self {
            Self::None => false,
            Self::Memory => matches!(place, Place::Threads),
            Self::File => true,
        }
    }
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for LockKind {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::word).join(", ");
        let found = Self::ALL.into_iter().find(|kind| kind.word() == given);
        found.ok_or_else(|| format!("there are these locks: {}", known()))
    }
}

/// A held lock of any kind.
pub(super) type Hold = Box<dyn Guard>;

/// An opened lock: the one thing in which two races differ.
pub(super) enum Locks {
    None,
    Memory(MemoryLock),
    File(FileLock),
}

impl Locks {
    /// Opens the lock. A file lock lies in `dir`; a lock in memory is new, known to nobody but this value.
    pub(super) fn open(kind: LockKind, dir: &Path) -> Result<Self> {
        let clock = Arc::new(SystemClock);
        Ok(match kind {
            LockKind::None => Self::None,
            LockKind::Memory => Self::Memory(MemoryLock::new(Identity::current(), clock)),
            LockKind::File => {
                // The directory is this race's alone and so are its processes, all on this machine: even a network
                // file system's flock is seen by all of them.
                let state = StateDir::open(dir, true)?;
                Self::File(FileLock::named(&state, Identity::current(), clock)?)
            }
        })
    }

    /// Asks to be let in. Without a lock everybody is, with nothing to hold.
    pub(super) fn acquire(&self, trip: &Name, wait: Wait) -> Result<Acquire<Option<Hold>>> {
        Ok(match self {
            Self::None => Acquire::Granted(None),
            Self::Memory(lock) => lock.acquire(trip, wait)?.map(|guard| Some(Box::new(guard) as Hold)),
            Self::File(lock) => lock.acquire(trip, wait)?.map(|guard| Some(Box::new(guard) as Hold)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for kind in LockKind::ALL {
            assert_eq!(kind.word().parse(), Ok(kind));
        }
        for later in ["queue", "redis", "postgres", "", "File"] {
            assert!(later.parse::<LockKind>().is_err(), "{later}");
        }
    }
}
