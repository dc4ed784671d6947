//! flock(2): the only module that calls it.
//!
//! Called as `fs2::FileExt::…`, fully qualified: since Rust 1.89 `File` has inherent methods of the same names, which
//! a method call would resolve to.
#![allow(clippy::disallowed_methods)]

use std::{
    fs::File,
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{Until, sleep::sleep_in};

/// Who else may hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whoever asked for it shared.
    Shared,
    /// Nobody.
    Exclusive,
}

/// Takes the lock if it is free.
pub(crate) fn try_lock(file: &File, kind: Kind) -> io::Result<bool> {
    loop {
        let tried = match kind {
            Kind::Shared => fs2::FileExt::try_lock_shared(file),
            Kind::Exclusive => fs2::FileExt::try_lock_exclusive(file),
        };
        match tried {
            Ok(()) => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Takes the lock, sleeping in one blocking flock(2) until it is free or the wait is over.
///
/// # Errors
/// `Interrupted` when a deferred TERM, INT or HUP arrived during the wait.
pub(crate) fn lock(file: &File, kind: Kind, until: Until) -> io::Result<bool> {
    let blocking = || match kind {
        Kind::Shared => fs2::FileExt::lock_shared(file),
        Kind::Exclusive => fs2::FileExt::lock_exclusive(file),
    };
    match until {
        Until::Now => try_lock(file, kind),
        Until::Never | Until::At(_) => sleep_in(until, blocking),
    }
}

/// Takes the exclusive lock if it is free.
pub(super) fn try_exclusive(file: &File) -> io::Result<bool> {
    try_lock(file, Kind::Exclusive)
}

/// The exclusive lock, as [`lock`] takes it.
pub(super) fn exclusive(file: &File, until: Until) -> io::Result<bool> {
    lock(file, Kind::Exclusive, until)
}

/// Takes the exclusive lock, however long that takes, unless an interruption finds the flag set.
pub(super) fn exclusive_unless(file: &File, called_back: &AtomicBool) -> io::Result<bool> {
    loop {
        match fs2::FileExt::lock_exclusive(file) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                if called_back.load(Ordering::Relaxed) {
                    return Ok(false);
                }
            }
            other => return other.map(|()| true),
        }
    }
}

/// Releases the lock, also for every process that inherited the descriptor.
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    fs2::FileExt::unlock(file)
}
