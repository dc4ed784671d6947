//! What is leased on a server, to whom, and until when.
//!
//! A lease is a lock that its holder loses by doing nothing: when the time to live that it asked for is over on the
//! server's clock. So two hosts' clocks are never compared, and what a holder may still do it counts on its own: from
//! *before* it sent the request, on `CLOCK_BOOTTIME`, which goes on while the machine sleeps. That count ends before the
//! server's does, whatever the network did with request and answer.

use std::time::Duration;

use crate::{
    clock::BootTime,
    lock::{Fence, Holder},
    name::Name,
};

/// What can be leased. Each has one fence, whatever its slots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Resource {
    /// A job, which has slots.
    Job(Name),
    /// A lock of `run --lock`.
    Lock(Name),
    /// A file of `update`, by the hash of its path.
    File(Name),
    /// A trip, or whatever else a library's user locks by name.
    Named(Name),
}

impl Resource {
    /// How the server knows it: `jobs/nightly`, `locks/db`, `files/0a1b…`, `names/1`.
    pub(crate) fn key(&self) -> String {
        let (folder, name) = match self {
            Self::Job(name) => ("jobs", name),
            Self::Lock(name) => ("locks", name),
            Self::File(name) => ("files", name),
            Self::Named(name) => ("names", name),
        };
        format!("{folder}/{name}")
    }

    /// Its name among those of its kind.
    pub(crate) fn name(&self) -> &Name {
        match self {
            Self::Job(name) | Self::Lock(name) | Self::File(name) | Self::Named(name) => name,
        }
    }

    /// The inverse of [`Resource::key`].
    pub(crate) fn from_key(key: &str) -> Option<Self> {
        let (folder, name) = key.split_once('/')?;
        let name = name.parse().ok()?;
        Some(match folder {
            "jobs" => Self::Job(name),
            "locks" => Self::Lock(name),
            "files" => Self::File(name),
            "names" => Self::Named(name),
            _ => return None,
        })
    }
}

/// What proves that a request comes from the holder: 128 random bits as 32 hexadecimal digits, made for one acquisition.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    /// One that nobody has.
    ///
    /// # Errors
    /// When the kernel has no randomness to give.
    pub(crate) fn new() -> std::io::Result<Self> {
        // A request id is made of the same bits.
        Ok(Self(crate::name::RequestIds::default().next()?.as_str().to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whoever knows it can release the lease.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A lease that was granted.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) resource: Resource,
    /// From 1.
    pub(crate) slot: u32,
    pub(crate) token: Token,
    pub(crate) fence: Fence,
    /// How long it lasts from each renewal.
    pub(crate) ttl: Duration,
    /// Until when it surely is ours: the moment before the last request that granted or renewed it, and the time to live.
    pub(crate) deadline: BootTime,
}

/// What asking for a lease came to.
#[derive(Debug)]
pub(crate) enum Attempt {
    Granted(Lease),
    /// All slots are taken, or others wait in front of us: one of those.
    Held(HeldLease),
}

/// A lease that somebody else has, or a free one for which somebody else waits in front of us.
#[derive(Debug, Clone)]
pub(crate) struct HeldLease {
    /// 0 of one that waits.
    pub(crate) slot: u32,
    /// Its note, with the fence (0 of one that waits).
    pub(crate) holder: Holder,
    /// How long it lasts unless it is renewed, on the server's clock; of one that waits, its ticket.
    pub(crate) left: Duration,
    /// Nobody has the lease just now: the holder is the first who waits for it.
    pub(crate) is_awaited: bool,
}

/// A lease that is held, for who only looks.
#[derive(Debug, Clone)]
pub(crate) struct LeaseView {
    pub(crate) resource: Resource,
    pub(crate) held: HeldLease,
}
