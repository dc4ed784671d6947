//! Row locks of `PostgreSQL`, as the textbook has them: a transaction that has read the lock's row `FOR UPDATE` holds the
//! lock until it ends. They keep out every host that uses the server.
//!
//! # Holding
//!
//! The guard has a connection of its own, whose transaction stays open; dropping it commits. The lock goes with the
//! transaction, and the transaction with the connection: when the holder dies, its kernel closes the connection, and the
//! server ends the transaction at once. A holder that is stopped keeps the lock. A holder that is cut off keeps it until
//! the server notices (`tcp_keepalives_idle` and its kin: hours by default), or until somebody ends its session; it
//! notices nothing before it asks ([`Guard::is_valid`]), and what it still does meanwhile only its fence can stop, where
//! it is compared. The server holds back its clean-up for as long as a transaction is open, so this is a lock for
//! moments; for what takes longer there are leases ([`LeasedLock`](super::LeasedLock)).
//!
//! The connection must reach the server itself, or a pooler that gives a transaction one session until its end (all do).
//!
//! # Waiting
//!
//! The first attempt does not wait (`NOWAIT`). Only then is a wait for oneself told from one for others; and then the
//! server itself keeps the queue (`lock_timeout`), in slices, so that a server that is gone is noticed.

use std::{
    cell::RefCell,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Acquire, Fence, Guard, Lock, LossMode, Wait, reentry, signals};
use crate::{
    error::{Error, Result},
    name::Name,
    store::{RowLock, StoreUrl},
};

/// Locks that are rows of a `PostgreSQL` server.
#[derive(Clone)]
pub struct PostgresLock {
    shared: Arc<Shared>,
}

struct Shared {
    url: StoreUrl,
    /// Connections that hold nothing just now.
    idle: Mutex<Vec<RowLock>>,
}

impl PostgresLock {
    /// The locks of that server.
    ///
    /// # Errors
    /// `Server` when it cannot be reached, refuses us, or is not fit to be a store; `Usage` when it is no `PostgreSQL`.
    pub fn connect(url: StoreUrl) -> Result<Self> {
        let first = RowLock::connect(&url)?;
        Ok(Self { shared: Arc::new(Shared { url, idle: Mutex::new(vec![first]) }) })
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<RowLock>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that answers: one that lay idle may have been closed long ago.
    fn connection(&self) -> Result<RowLock> {
        loop {
            let idle = self.idle().pop();
            let Some(mut idle) = idle else { return RowLock::connect(&self.url) };
            if idle.answers() {
                return Ok(idle);
            }
        }
    }
}

impl std::fmt::Debug for PostgresLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresLock").field("url", &self.shared.url).finish_non_exhaustive()
    }
}

impl Lock for PostgresLock {
    type Guard = PostgresGuard;

    fn acquire(&self, name: &Name, wait: Wait) -> Result<Acquire<PostgresGuard>> {
        let until = wait.until();
        let key = reentry::Key::OnServer(format!("{} rows/{name}", self.shared.url).into());
        let mut row = self.shared.connection()?;
        let acquired = row.acquire(name, until, || {
            signals::interrupted().map_err(|e| Error::io("wait for", name.as_str(), e))?;
            if reentry::is_ours(&key) { Err(Error::Reentrant(name.clone())) } else { Ok(()) }
        })?;
        Ok(match acquired {
            Acquire::Granted(fence) => Acquire::Granted(PostgresGuard {
                shared: Arc::clone(&self.shared),
                row: RefCell::new(Some(row)),
                fence,
                _entry: reentry::Entry::new(key),
                _thread: PhantomData,
            }),
            Acquire::Held(holder) => {
                self.shared.idle().push(row);
                Acquire::Held(holder)
            }
        })
    }

    fn loss_mode(&self) -> LossMode {
        LossMode::WithTransaction
    }
}

/// A row lock that was held when it was granted, and is as long as its transaction is open.
pub struct PostgresGuard {
    shared: Arc<Shared>,
    row: RefCell<Option<RowLock>>,
    fence: Fence,
    _entry: reentry::Entry,
    /// Not `Send`: the entry names the thread.
    _thread: PhantomData<*const ()>,
}

impl std::fmt::Debug for PostgresGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresGuard").field("fence", &self.fence).finish_non_exhaustive()
    }
}

impl Guard for PostgresGuard {
    fn fence(&self) -> Fence {
        self.fence
    }

    /// Asks the server; one that does not answer holds nothing that counts.
    fn is_valid(&self) -> Result<bool> {
        let mut row = self.row.borrow_mut();
        let is_held = row.as_mut().is_some_and(RowLock::is_held);
        if !is_held {
            // For good: a later yes would hide that somebody else may have had it.
            *row = None;
        }
        Ok(is_held)
    }
}

impl Drop for PostgresGuard {
    fn drop(&mut self) {
        if let Some(mut row) = self.row.take() {
            // Without an answer, the connection is closed, and the lock goes with it.
            if row.release() {
                self.shared.idle().push(row);
            }
        }
    }
}
