//! Keeps a growing log to its limit.
//!
//! The log is watched with inotify, so that a silent job costs nothing. But taking a watch down makes the kernel wait
//! for its readers, up to 7 ms (measured; the rest of a short run takes less than 1 ms), so a run gets one only when
//! it has lasted [`SHORT`]. A chatty job is looked at every [`REST`], not at each of its writes: until then the log may
//! be over its limit by what the job prints in that time.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FallocateFlags, inotify::WatchFlags},
    io::Errno,
};

use super::{Logs, cut::Cut};
use crate::{
    dir::{Watch, stat_file},
    error::Error,
    job::model::RunId,
};

/// A run that is shorter is not watched.
pub(super) const SHORT: Duration = Duration::from_millis(50);

/// Between two looks.
const REST: Duration = Duration::from_millis(20);

/// The same where there is no inotify to be had (a user has 128 instances): then the clock says when to look.
const UNWATCHED: Duration = Duration::from_millis(500);

/// Holes are made of whole blocks; where these are larger, a little more is kept.
const BLOCK: u64 = 4096;

#[derive(Debug)]
pub(super) struct Limit {
    bytes: u64,
    watch: Option<Watch>,
    /// When to look; `None`: when the watch says so.
    next: Option<Instant>,
    cut: Option<(File, Cut)>,
    failure: Option<String>,
}

impl Limit {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, watch: None, next: Some(Instant::now() + SHORT), cut: None, failure: None }
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    pub(super) fn watch(&self) -> Option<BorrowedFd<'_>> {
        // While it rests, the watch would wake its owner for every write.
        if self.next.is_none() { self.watch.as_ref().map(Watch::as_fd) } else { None }
    }

    /// Why the log is larger than it should be, if it is.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub(super) fn look(&mut self, logs: &Logs, run: RunId, log: &File) {
        if self.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        self.next = match &self.watch {
            // What was printed before the look, the look sees; what is printed after it, the watch tells.
            Some(watch) if !watch.drain() => {
                self.next = None;
                return;
            }
            Some(_) => Some(Instant::now() + REST),
            None => {
                self.watch = watch(logs, run).ok();
                if self.watch.is_some() { None } else { Some(Instant::now() + UNWATCHED) }
            }
        };
        self.enforce(logs, run, log);
    }

    /// Cuts the middle out of a log that is too large.
    pub(super) fn enforce(&mut self, logs: &Logs, run: RunId, log: &File) {
        if let Err(error) = self.try_enforce(logs, run, log) {
            self.failure.get_or_insert(error.to_string());
        }
    }

    fn try_enforce(&mut self, logs: &Logs, run: RunId, log: &File) -> crate::Result<()> {
        let failed = |operation, e: io::Error| Error::io(operation, logs.path_of(run), e);
        let now = stat_file(log).map_err(|e| failed("stat", e))?;
        if self.cut.as_ref().is_some_and(|(_, cut)| cut.to > now.size) {
            // The job truncated its log, so nothing of what is there was cut.
            let (file, _) = self.cut.take().expect("it is there");
            let none = Cut { from: 0, to: 0 };
            none.write(&file, now.id.inode).map_err(|e| Error::io("write", logs.cut_path(run), e))?;
        }
        let before = self.cut.as_ref().map(|(_, cut)| *cut);
        if now.size - before.map_or(0, Cut::length) <= self.bytes {
            return Ok(());
        }
        let from = before.map_or(self.bytes / 2 / BLOCK * BLOCK, |cut| cut.from);
        // Of a limit that is no multiple of two blocks the end gets the odd rest.
        let to = (now.size - (self.bytes - from.min(self.bytes))).next_multiple_of(BLOCK).min(now.size);
        let cut = Cut { from, to };
        let start = before.map_or(from, |cut| cut.to);
        let punch = || {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(log, flags, start, to - start)
        };
        match self.record(logs, run, cut, now.id.inode) {
            Err(error) if is_full(&error) => {
                // There is no block left for the record; the hole gives some back.
                punch().map_err(|e| failed("cut", e.into()))?;
                return self.record(logs, run, cut, now.id.inode);
            }
            recorded => recorded?,
        }
        match punch() {
            Ok(()) => Ok(()),
            Err(errno) => {
                // Nothing was cut after all.
                self.record(logs, run, before.unwrap_or(Cut { from: 0, to: 0 }), now.id.inode)?;
                self.cut = before.and(self.cut.take());
                Err(match errno {
                    Errno::OPNOTSUPP | Errno::NOSYS => {
                        failed("cut", io::Error::other("the file system cannot give back the middle of a file"))
                    }
                    errno => failed("cut", errno.into()),
                })
            }
        }
    }

    fn record(&mut self, logs: &Logs, run: RunId, cut: Cut, inode: u64) -> crate::Result<()> {
        let file = match self.cut.take() {
            Some((file, _)) => file,
            None => logs.make_cut(run)?,
        };
        let written = cut.write(&file, inode);
        self.cut = Some((file, cut));
        written.map_err(|e| Error::io("write", logs.cut_path(run), e))
    }
}

fn is_full(error: &Error) -> bool {
    let (Error::Io { source, .. } | Error::CannotCreate { source, .. }) = error else { return false };
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Becomes readable when the log is written to.
pub(super) fn watch(logs: &Logs, run: RunId) -> io::Result<Watch> {
    Watch::of(&logs.path_of(run), WatchFlags::MODIFY)
}
