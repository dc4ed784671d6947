//! flock(2): the only module that calls it.
//!
//! Called as `fs2::FileExt::…`, fully qualified: since Rust 1.89 `File` has inherent methods of the same names, which
//! a method call would resolve to.
#![allow(clippy::disallowed_methods)]

use std::{
    fs::File,
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use super::{Until, signals, timer};

/// Takes the exclusive lock if it is free.
pub(super) fn try_exclusive(file: &File) -> io::Result<bool> {
    loop {
        match fs2::FileExt::try_lock_exclusive(file) {
            Ok(()) => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Takes the exclusive lock, sleeping in one blocking flock(2) until it is free or the wait is over.
///
/// # Errors
/// `Interrupted` when a deferred TERM, INT or HUP arrived during the wait.
pub(super) fn exclusive(file: &File, until: Until) -> io::Result<bool> {
    let blocking = || fs2::FileExt::lock_exclusive(file);
    match until {
        Until::Now => try_exclusive(file),
        Until::Never if !signals::are_held_back() => loop {
            match blocking() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => signals::interrupted()?,
                other => return other.map(|()| true),
            }
        },
        Until::Never | Until::At(_) => {
            let deadline = if let Until::At(deadline) = until { Some(deadline) } else { None };
            let _alarm = timer::Alarm::at(deadline)?;
            loop {
                match blocking() {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                        signals::interrupted()?;
                        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                            return Ok(false);
                        }
                    }
                    other => return other.map(|()| true),
                }
            }
        }
    }
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
pub(super) fn unlock(file: &File) -> io::Result<()> {
    fs2::FileExt::unlock(file)
}
