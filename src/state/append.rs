//! Appending to the ledger under the trip's lock: the lines of one draft, all or none.

use std::{os::unix::fs::FileExt as _, sync::Arc};

use super::{commit::lock_sync, files::TripFiles, ledger::Ledger, note::Note, state_file::State};
use crate::{
    error::{Error, Result},
    lock::{FileGuard, Guard as _},
};

/// Lines on their way to the end of the ledger.
pub(super) struct Append<'a> {
    files: &'a TripFiles,
    guard: &'a FileGuard,
    ledger: &'a Ledger,
    /// Where the ledger ended when the draft was begun.
    start: u64,
    written: u64,
}

impl<'a> Append<'a> {
    pub(super) fn new(files: &'a TripFiles, guard: &'a FileGuard, ledger: &'a Ledger, start: u64) -> Self {
        Self { files, guard, ledger, start, written: 0 }
    }

    /// Appends these lines; before the first ones, `on_first`.
    ///
    /// # Errors
    /// `LockLost` before the first line when somebody else may have committed; `NotAppended` when the lines could not
    /// be written. [`Append::undo`] is due then.
    pub(super) fn write(&mut self, lines: &[u8], on_first: impl FnOnce()) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.written == 0 {
            check_unchanged(self.files, self.guard, Some((self.ledger, self.start)))?;
            on_first();
        }
        let at = self.start + self.written;
        // Some of it may be there even when it fails.
        self.written += lines.len() as u64;
        let written = self.ledger.file().write_all_at(lines, at);
        written
            .map_err(|e| Error::NotAppended { path: self.files.dir.path_of(&self.files.ledger), source: Arc::new(e) })
    }

    /// Leaves the ledger as it was, and gives the error that was the reason. Under `NAME.sync`: a syncer may have seen
    /// whole lines of ours, and what it made durable must not be cut off.
    ///
    /// The error is `Uncertain` when that has happened already.
    pub(super) fn undo(self, reason: Error) -> Error {
        if self.written == 0 {
            return reason;
        }
        match self.cut() {
            Ok(true) => reason,
            Ok(false) => {
                Error::Uncertain { request_id: None, why: format!("{}, part of it is on disk", cause(&reason)) }
            }
            Err(cut) => Error::Uncertain { request_id: None, why: format!("{}, and then {cut}", cause(&reason)) },
        }
    }

    fn cut(&self) -> Result<bool> {
        let sync = lock_sync(self.files, None)?;
        let generation = self.ledger.generation();
        let durable = State::read(self.files)?.filter(|state| state.generation == generation).map(|s| s.durable);
        let begun = Note::read(self.files, &sync, generation)?.filter(|note| note.generation == generation);
        if durable.is_none_or(|durable| durable > self.start) || begun.is_some_and(|note| note.upto > self.start) {
            return Ok(false);
        }
        let cut = self.ledger.file().set_len(self.start);
        cut.map_err(|e| Error::io("cut", self.files.dir.path_of(&self.files.ledger), e))?;
        Ok(true)
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

/// Without the promise that nothing was changed.
fn cause(error: &Error) -> String {
    match error {
        Error::NotAppended { path, source } => format!("cannot append to {}: {source}", path.display()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        booking::{Change, Event, Request},
        clock::{Clock as _, SystemClock, rfc3339},
        dir::{Access, StateDir},
        lock::{Acquire, FileLock, Identity, Missing, Until, Wait},
        state::{Store, commit, ledger::Mark, line::Line},
    };

    /// A line of ours that another process has made durable meanwhile stays, and the outcome is open.
    #[test]
    fn what_somebody_made_durable_is_not_cut_off() {
        for synced in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let open = || StateDir::open(directory.path(), false).unwrap();
            let trip: crate::Name = "1".parse().unwrap();
            drop(Store::open(open()).submit(&trip, &Request::new(Change::Add { seats: 9 }), Wait::No).unwrap());
            let dir = Arc::new(open().subdirectory("trips").unwrap().unwrap());
            let files = TripFiles::new(Arc::clone(&dir), trip.clone());
            let locks = FileLock::in_dir(dir, Arc::new(Identity::current()), Arc::new(SystemClock));
            let Some(Acquire::Granted(guard)) = locks.acquire_file(&trip, Missing::GiveUp, Until::Now, None).unwrap()
            else {
                panic!("nobody holds it")
            };
            let ledger = Ledger::open(&files.dir, &files.ledger, &trip, Access::ReadWrite).unwrap().unwrap();
            let start = State::read(&files).unwrap().unwrap();
            let event = Event::Booked { student: "7".parse().unwrap(), seats: 1 };
            let fence = guard.fence();
            let totals = start.totals.after(&event, fence).unwrap();
            let time = SystemClock.now();
            let (revision, seats_left, synced_to) = (totals.revision, totals.seats_left, start.durable);
            let line = Line {
                revision,
                event,
                in_batch: false,
                request_id: None,
                fence,
                time,
                seats_left,
                synced: synced_to,
                head: None,
            };
            let mut lines = Vec::new();
            line.encode(&rfc3339(time), &mut lines);
            let mut append = Append::new(&files, &guard, &ledger, start.durable);
            append.write(&lines, || {}).unwrap();
            let end = append.end();
            if synced {
                let start = Mark { offset: start.durable, totals: start.totals };
                let whole = ledger.verify(start, end).unwrap().end;
                commit::make_durable(&files, &ledger, whole, &mut None).unwrap();
            }
            let error = append.undo(Error::Usage("full".to_owned()));
            assert_eq!(matches!(error, Error::Uncertain { .. }), synced, "{error}");
            assert_eq!(ledger.size().unwrap(), if synced { end } else { start.durable });
        }
    }
}
