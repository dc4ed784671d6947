//! Appending to the ledger under the trip's lock: the lines of one draft, all or none.

use std::{os::unix::fs::FileExt as _, sync::Arc};

use super::{files::TripFiles, ledger::Ledger};
use crate::{
    error::{Error, Result},
    lock::{Deferred, FileGuard, Guard as _},
};

/// Lines on their way to the end of the ledger.
pub(super) struct Append<'a> {
    files: &'a TripFiles,
    guard: &'a FileGuard,
    ledger: &'a Ledger,
    /// Where the ledger ended when the draft was begun.
    start: u64,
    written: u64,
    /// TERM, INT and HUP wait for the answer from here on.
    defer_signals: bool,
}

impl<'a> Append<'a> {
    pub(super) fn new(
        files: &'a TripFiles,
        guard: &'a FileGuard,
        ledger: &'a Ledger,
        start: u64,
        defer_signals: bool,
    ) -> Self {
        Self { files, guard, ledger, start, written: 0, defer_signals }
    }

    /// Appends these lines.
    ///
    /// # Errors
    /// `LockLost` before the first line when somebody else may have committed; `NotAppended` when the lines could not
    /// be written. [`Append::undo`] is due then.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.written == 0 {
            check_unchanged(self.files, self.guard, Some((self.ledger, self.start)))?;
            if self.defer_signals {
                Deferred::begin();
            }
        }
        let at = self.start + self.written;
        // Some of it may be there even when it fails.
        self.written += lines.len() as u64;
        let written = self.ledger.file().write_all_at(lines, at);
        written
            .map_err(|e| Error::NotAppended { path: self.files.dir.path_of(&self.files.ledger), source: Arc::new(e) })
    }

    /// Leaves the ledger as it was, and gives the error that was the reason.
    pub(super) fn undo(self, reason: Error) -> Error {
        if self.written == 0 {
            return reason;
        }
        match self.ledger.file().set_len(self.start) {
            Ok(()) => reason,
            Err(cut) => {
                let reason = match &reason {
                    Error::NotAppended { source, .. } => source.to_string(),
                    reason => reason.to_string(),
                };
                Error::Uncertain { request_id: None, why: format!("{reason}, and then {cut}") }
            }
        }
    }

    /// Where the appended lines end.
    pub(super) fn end(&self) -> u64 {
        self.start + self.written
    }
}

/// The compare of the compare-and-set: a lock file or a ledger that was replaced under us, or a ledger that grew, means
/// that somebody else may have committed since. `ledger`: and where it ended; `None` when there was none.
pub(super) fn check_unchanged(files: &TripFiles, guard: &FileGuard, ledger: Option<(&Ledger, u64)>) -> Result<()> {
    let unchanged = match ledger {
        Some((ledger, end)) => files.ledger_is(ledger.id())? && ledger.size()? == end,
        None => files.dir.stat(&files.ledger)?.is_none(),
    };
    if unchanged && guard.is_valid()? { Ok(()) } else { Err(Error::LockLost(files.trip.clone())) }
}
