//! One install or uninstall of a user at a time.
//!
//! A crontab is read, changed and written back as a whole, so of two at once the first's lines would be lost; and the
//! templates that one job finds in place go with another that takes itself for the last.
//!
//! The lock is on the user's home directory: it is there before anything is installed, nobody else may as a rule open
//! root's, and nothing is left behind. Where there is none, or its file system has no such locks, there is no turn to take.

use std::{fs::File, path::Path};

use crate::lock::{Until, flock};

/// While it lives it is this process's turn.
#[derive(Debug)]
pub(crate) struct Turn {
    _home: File,
}

impl Turn {
    /// Waits for it.
    pub(crate) fn take(home: &Path) -> Option<Self> {
        let home = File::open(home).ok()?;
        flock::lock(&home, flock::Kind::Exclusive, Until::Never).ok().filter(|is_locked| *is_locked)?;
        Some(Self { _home: home })
    }
}
