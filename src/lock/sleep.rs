//! Sleeping in a blocking call for a lock, until it is ours or the wait is over.

use std::{io, time::Instant};

use super::{Until, signals, timer};

/// Makes the call again and again until it succeeds; `false` when the wait was over first. (`Until::Now` is no
/// wait: who does not wait makes a call that does not block.)
///
/// # Errors
/// `Interrupted` when a deferred TERM, INT or HUP arrived during the wait; others are the call's.
pub(super) fn sleep_in(until: Until, call: impl Fn() -> io::Result<()>) -> io::Result<bool> {
    match until {
        Until::Never if !signals::are_held_back() => loop {
            match call() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => signals::interrupted()?,
                other => return other.map(|()| true),
            }
        },
        Until::Now | Until::Never | Until::At(_) => {
            let deadline = if let Until::At(deadline) = until { Some(deadline) } else { None };
            let _alarm = timer::Alarm::at(deadline)?;
            loop {
                match call() {
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
