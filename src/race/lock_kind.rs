//! The locks that a race can be run with.

use std::{fmt, str::FromStr};

use super::Place;
use crate::{lock::Wait, store::Kind};

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
    /// The same, with a line in front of it.
    Queue,
    /// A lease of a Redis server.
    Redis,
    /// A row of a PostgreSQL server, under `FOR UPDATE`.
    Postgres,
}

impl LockKind {
    /// Every kind, in the order of the lesson.
    pub const ALL: [Self; 6] = [Self::None, Self::Memory, Self::File, Self::Queue, Self::Redis, Self::Postgres];

    /// The word for it on the command line and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Memory => "memory",
            Self::File => "file",
            Self::Queue => "queue",
            Self::Redis => Kind::Redis.word(),
            Self::Postgres => Kind::Postgres.word(),
        }
    }

    /// Whether it keeps out everybody who runs in such a place.
    pub const fn holds_in(self, place: Place) -> bool {
        match self {
            Self::None => false,
            Self::Memory => matches!(place, Place::Threads),
            Self::File | Self::Queue => matches!(place, Place::Threads | Place::Processes),
            Self::Redis | Self::Postgres => true,
        }
    }

    /// How long a student waits for it when nobody says how long: a line is for waiting in, and whoever comes is served.
    pub(crate) const fn usual_wait(self) -> Wait {
        match self {
            Self::Queue => Wait::Forever,
            Self::None | Self::Memory | Self::File | Self::Redis | Self::Postgres => Wait::No,
        }
    }

    /// The kind of server that it is on; `None` when it needs none.
    pub(crate) const fn server(self) -> Option<Kind> {
        match self {
            Self::None | Self::Memory | Self::File | Self::Queue => None,
            Self::Redis => Some(Kind::Redis),
            Self::Postgres => Some(Kind::Postgres),
        }
    }

    /// What to say on the command line for the server that it is on.
    pub(crate) const fn what_to_give(self) -> &'static str {
        match self {
            Self::None | Self::Memory | Self::File | Self::Queue => "give nothing",
            Self::Redis => "give --store redis://HOST, or $TRIPLOCK_STORE",
            Self::Postgres => "give --store postgres://HOST/DATABASE, or $TRIPLOCK_STORE",
        }
    }

    /// The lock of such a server.
    pub(crate) const fn on(server: Kind) -> Self {
        match server {
            Kind::Redis => Self::Redis,
            Kind::Postgres => Self::Postgres,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for kind in LockKind::ALL {
            assert_eq!(kind.word().parse(), Ok(kind));
        }
        for later in ["etcd", "", "File"] {
            assert!(later.parse::<LockKind>().is_err(), "{later}");
        }
    }
}
