//! Locks: one trait, a file for each back end.
//!
//! | back end | who is kept out | how a lock is lost |
//! |---|---|---|
//! | [`MemoryLock`] | threads that share the value | with the process |
//! | [`FileLock`] | every process of the machine | with the last open descriptor |
//! | [`QueueLock`] | the same, and serves them in the order in which they came | with the last open descriptor |
//! | [`LeasedLock`], on Redis or PostgreSQL | every host that uses the server | by expiry, when it was not renewed in time |
//! | [`PostgresLock`], a row under `FOR UPDATE` | every host that uses the server | with the transaction, when its connection ends |
//!
//! Contention is a value ([`Acquire::Held`]), not an error. A waiter sleeps in the kernel: a file lock is waited for
//! with one blocking flock(2), never by polling (a poller every 50 ms got a contended lock 1 time in 12; a sleeper,
//! 80 times of 80). A lock on a server is waited for by listening there, and asked for again when its holder's lease
//! must be over.
//!
//! A holder on a server can lose its lock and not know it yet: while it is paused, or cut off. Until it asks
//! ([`Guard::is_valid`]) only its [`Fence`] gives it away, to whoever compares fences.

mod any;
mod file;
pub(crate) mod flock;
mod held_file;
mod holder;
mod inherited;
mod lane;
mod lease;
mod leased;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
mod range;
mod reentry;
mod signals;
mod sleep;
mod timer;

use std::time::{Duration, Instant};

pub(crate) use file::holder_in;
pub use file::{FileGuard, FileLock};
pub(crate) use held_file::{HeldFile, Missing, Taken, read_head};
pub(crate) use holder::shortened;
pub use holder::{Holder, Identity};
pub(crate) use inherited::Inherited;
pub(crate) use lane::{Lane, Place, Ticket};
pub(crate) use lease::{Openers, has_writers, is_sole_opener, other_openers};
pub use leased::{LeasedGuard, LeasedLock};
pub use memory::{MemoryGuard, MemoryLock};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresGuard, PostgresLock};
pub use queue::QueueLock;
pub(crate) use signals::{Deferred, arrived, handled_signals, signal_arrived};

use crate::{error::Result, name::Name};

/// A number that grows with every acquisition of a name and is never reused: a later holder's is larger.
///
/// A commit names the fence that it was made under, so the commit of a holder that lost its lock is refused.
/// (After Martin Kleppmann, "How to do distributed locking", 2016.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl std::fmt::Display for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How long to wait for a lock that somebody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: "locked, try later".
    No,
    /// At most this long.
    For(Duration),
    /// Until it is free.
    Forever,
}

impl Wait {
    /// The moment at which the wait ends.
    pub(crate) fn until(self) -> Until {
        match self {
            Self::No => Until::Now,
            // A wait past the end of time is one for ever.
            Self::For(wait) => Instant::now().checked_add(wait).map_or(Until::Never, Until::At),
            Self::Forever => Until::Never,
        }
    }
}

/// A [`Wait`] that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Until {
    Now,
    At(Instant),
    Never,
}

/// What asking for a lock comes to.
#[derive(Debug)]
#[must_use]
pub enum Acquire<T> {
    /// It is ours (or, of an operation under the lock: this is its result).
    Granted(T),
    /// Somebody else holds it, and the wait is over.
    Held(Option<Holder>),
}

impl<T> Acquire<T> {
    /// What was granted.
    pub fn granted(self) -> Option<T> {
        match self {
            Self::Granted(value) => Some(value),
            Self::Held(_) => None,
        }
    }

    /// The same with what was granted changed.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Acquire<U> {
        match self {
            Self::Granted(value) => Acquire::Granted(change(value)),
            Self::Held(holder) => Acquire::Held(holder),
        }
    }
}

/// When a back end's locks are lost without being released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossMode {
    /// When the process ends.
    WithProcess,
    /// When the last process that inherited the descriptor closes it.
    WithLastDescriptor,
    /// When its time to live is over on the server's clock and nobody renewed it: also while its holder still runs,
    /// paused or cut off from the server.
    ByExpiry,
    /// When the transaction ends that holds it: with its connection, also while its holder still runs.
    WithTransaction,
}

/// A back end: exclusive locks by name.
///
/// Dropping the guard releases the lock, also when the holder panics.
pub trait Lock: Send + Sync {
    /// Proof of holding. It stays on the thread that acquired it: that is what makes a re-entrant wait detectable.
    type Guard: Guard;

    /// Takes the lock of `name`, waiting as told.
    ///
    /// # Errors
    /// `Reentrant` when this thread holds it already and would wait for itself; `Io`, `CannotCreate`, `NotRegular`,
    /// `Denied` or `Server` from the back end.
    fn acquire(&self, name: &Name, wait: Wait) -> Result<Acquire<Self::Guard>>;

    /// When its locks are lost.
    fn loss_mode(&self) -> LossMode;
}

/// A held lock.
#[must_use]
pub trait Guard {
    /// The fence of this acquisition.
    fn fence(&self) -> Fence;

    /// Whether the lock is still this guard's.
    ///
    /// # Errors
    /// When the back end cannot tell.
    fn is_valid(&self) -> Result<bool>;
}
