//! The lock of a race, opened: the one thing in which two races differ.

use std::{path::PathBuf, sync::Arc};

use super::LockKind;
#[cfg(feature = "postgres")]
use crate::lock::PostgresLock;
use crate::{
    clock::SystemClock,
    dir::StateDir,
    error::{Error, Result},
    lock::{Acquire, FileLock, Guard, Identity, LeasedLock, Lock, MemoryLock, QueueLock, Ticket, Wait},
    name::Name,
    store::{PATIENCE, Resource, StoreUrl, Token, connect},
};

/// Where a student finds the lock.
#[derive(Debug, Clone)]
pub(super) struct LockSite {
    /// The state directory that a lock on a file is in.
    pub(super) state: PathBuf,
    /// What the lock is called.
    pub(super) name: Name,
    /// The server of a lock that is on one.
    pub(super) server: Option<StoreUrl>,
}

impl LockSite {
    /// What a lock is called where nobody but the race's students can come.
    pub(super) fn usual_name() -> Name {
        super::TRIP.parse().expect("a number is a name")
    }
}

/// A held lock of any kind.
pub(super) type Hold = Box<dyn Guard>;

/// An opened lock.
pub(super) struct Locks {
    back_end: BackEnd,
    name: Name,
}

enum BackEnd {
    None,
    Memory(MemoryLock),
    File(FileLock),
    Queue(QueueLock),
    Leased(LeasedLock),
    #[cfg(feature = "postgres")]
    Row(PostgresLock),
}

impl Locks {
    /// Opens the lock. A lock in memory is new, known to nobody but this value.
    pub(super) fn open(kind: LockKind, site: &LockSite) -> Result<Self> {
        let (identity, clock) = (Identity::current(), Arc::new(SystemClock));
        let back_end = match kind {
            LockKind::None => BackEnd::None,
            LockKind::Memory => BackEnd::Memory(MemoryLock::new(identity, clock)),
            LockKind::File => BackEnd::File(FileLock::named(&open_state(site)?, identity, clock)?),
            LockKind::Queue => BackEnd::Queue(QueueLock::named(&open_state(site)?, identity, clock)?),
            #[cfg(feature = "postgres")]
            LockKind::Postgres => {
                let server = site.server.clone().ok_or_else(|| needs_server(kind))?;
                BackEnd::Row(PostgresLock::connect(server)?)
            }
            #[allow(unreachable_patterns)] // Unless it was built without PostgreSQL: the connection will say so.
            LockKind::Redis | LockKind::Postgres => {
                let server = site.server.clone().ok_or_else(|| needs_server(kind))?;
                BackEnd::Leased(LeasedLock::connect(server, LeasedLock::TTL, identity, clock)?)
            }
        };
        Ok(Self { back_end, name: site.name.clone() })
    }

    /// A place in line for that student, if there is a line and it is to wait: also where nobody waits, so that everybody
    /// has a place to tell.
    pub(super) fn take_ticket(&self, student: u32, wait: Wait) -> Result<Option<Ticket>> {
        match &self.back_end {
            BackEnd::Queue(lock) if wait != Wait::No => lock.take_ticket(&self.name, student.into()).map(Some),
            _ => Ok(None),
        }
    }

    /// Asks to be let in. Without a lock everybody is, with nothing to hold.
    pub(super) fn acquire(&self, ticket: Option<&Ticket>, wait: Wait) -> Result<Acquire<Option<Hold>>> {
        let name = &self.name;
        Ok(match &self.back_end {
            BackEnd::None => Acquire::Granted(None),
            BackEnd::Memory(lock) => lock.acquire(name, wait)?.map(|guard| Some(Box::new(guard) as Hold)),
            BackEnd::File(lock) => lock.acquire(name, wait)?.map(|guard| Some(Box::new(guard) as Hold)),
            BackEnd::Queue(lock) => {
                let acquired = match ticket {
                    Some(ticket) => lock.wait_in_line(name, ticket, wait.until()),
                    None => lock.acquire(name, wait),
                };
                acquired?.map(|guard| Some(Box::new(guard) as Hold))
            }
            BackEnd::Leased(lock) => lock.acquire(name, wait)?.map(|guard| Some(Box::new(guard) as Hold)),
            #[cfg(feature = "postgres")]
            BackEnd::Row(lock) => lock.acquire(name, wait)?.map(|guard| Some(Box::new(guard) as Hold)),
        })
    }
}

/// The directory of a lock that is a file. It is this race's alone and so are its processes, all on this machine: even a
/// network file system's flock is seen by all of them.
fn open_state(site: &LockSite) -> Result<StateDir> {
    StateDir::open(&site.state, true)
}

/// That a lock is on a server, and none was named.
pub(super) fn needs_server(kind: LockKind) -> Error {
    Error::Usage(format!("lock {kind} is on a server: {}", kind.what_to_give()))
}

/// A race's place on a server, which others use as well: a name that nobody else has, and nothing left of it afterwards.
pub(super) struct ServerPlace {
    server: StoreUrl,
    name: Name,
}

impl ServerPlace {
    /// Makes sure that the server is there, before anybody races.
    pub(super) fn reserve(server: &StoreUrl) -> Result<Self> {
        connect(server, PATIENCE)?;
        let token = Token::new().map_err(|e| Error::io("get random bytes for", "the name of the race", e))?;
        let name = format!("race-{}", token.as_str()).parse().expect("hexadecimal digits make a name");
        Ok(Self { server: server.clone(), name })
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }
}

impl Drop for ServerPlace {
    fn drop(&mut self) {
        // What cannot be removed is a name that nobody asks for again.
        let _ =
            connect(&self.server, PATIENCE).and_then(|mut session| session.forget(&Resource::Named(self.name.clone())));
    }
}
