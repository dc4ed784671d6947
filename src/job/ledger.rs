//! A job's ledger, `NAME.jsonl`: what was run, what was not, and why; append-only.
//!
//! Each line ends in the sums of all lines up to it and a checksum, so the last intact line answers what `status` and
//! the next run ask, whatever the ledger's length. There is no state file that could disagree with it.
//!
//! 1. Appends take `NAME.commit` in turn. The job's lock would not do: it is held as long as the job runs, and a run
//!    that is skipped meanwhile is recorded too. Without a lock, two appends would hand out one run id twice, and
//!    each would leave the other out of its sums.
//! 2. The sums come from the last intact line, found from the end. A file that ends amid a line lost its end in a crash
//!    (after a power cut those bytes are often NULs), and the bytes stay: cutting them off would be a second write that
//!    a crash can tear, and nobody counts on them. So that the next line is not lost with them, a newline goes first.
//! 3. All lines of one append are written at once, so no reader finds the end of one run without the start of its
//!    retry. When not all could be written (a full disk), what was is cut off again: nobody else has appended since.
//! 4. `fdatasync` comes after `NAME.commit` is released. A run that is skipped, and is recorded without a sync, would
//!    otherwise wait for the disk because another run starts. Syncing later syncs more lines, never fewer.
//! 5. A new ledger's name is synced before its first line is written: a line on disk in a file without a name is lost.
//!    An empty ledger may be one whose maker was killed before it did so, and is treated as new.
//! 6. A ledger larger than 16 MiB (256 while queued runs wait) is renamed to `NAME.old`, over an older one, and the first line of the new one goes on
//!    with its sums: run ids, fences and counters never start over. Killed between the two, there is no ledger, or an
//!    empty one; then, and when no line of it is intact, the sums are those of `NAME.old`. A new ledger whose first lines
//!    a power cut took is no worse: what was not synced was not answered. Whoever puts a ledger aside syncs it first: a
//!    run whose start is in it syncs only the new one when it ends.
//! 7. A line of a newer format is not built upon, and an intact line that makes no sense is not passed over (its run ids
//!    would be handed out again): both end the append before anything is written.

use std::{
    cell::Cell,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, SubsecRound as _, Utc};

use super::{
    Entry, Event, Totals,
    backwards::read_at,
    fences::{Fences, Mark, Next},
    files::JobFiles,
    line::{self, Unreadable},
};
use crate::{
    clock::Clock,
    dir::{Access, FileId, StateDir},
    error::{Error, Result},
    lock::{FileLock, HeldFile, Identity, Missing, Taken, Until},
    name::Name,
};

/// How long `NAME.commit` is waited for; an append takes microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A ledger that is larger, in bytes, is put aside.
const ROTATE_AT: u64 = 16 * 1024 * 1024;

/// So many times as large while runs wait.
const WAITING: u64 = 16;

/// How much of a ledger's end is read first, in bytes.
const TAIL: u64 = 4096;

/// A job's ledger, for who appends to it.
pub(crate) struct JobLedger {
    files: JobFiles,
    identity: Arc<Identity>,
    clock: Arc<dyn Clock>,
    rotate_at: u64,
    /// Files that the last append left open, for the next one.
    kept: Cell<Option<Open>>,
    kept_commit: Cell<Option<(File, FileId)>>,
}

/// An open ledger, and what its last intact line says.
struct Open {
    file: Arc<File>,
    id: FileId,
    size: u64,
    /// Whether the next line can follow at once.
    at_line_start: bool,
    totals: Totals,
}

/// What an append came to.
#[derive(Debug)]
#[must_use]
// Who appends has decided what, and seldom asks again; the tests do.
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) struct Appended {
    /// What was written.
    pub(crate) entries: Vec<Entry>,
    /// The sums after it.
    pub(crate) totals: Totals,
    file: Arc<File>,
    path: PathBuf,
}

impl Appended {
    /// Returns when it would survive a power cut, and all that was appended before.
    ///
    /// # Errors
    /// `Io`: then it may be lost.
    pub(crate) fn sync(&self) -> Result<()> {
        self.later()()
    }

    /// The same, for another thread to do.
    pub(super) fn later(&self) -> impl FnOnce() -> Result<()> + Send + use<> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        move || file.sync_data().map_err(|e| Error::io("sync", path, e))
    }
}

impl JobLedger {
    /// `identity` and `clock` say who writes and when.
    pub(crate) fn new(files: JobFiles, identity: Arc<Identity>, clock: Arc<dyn Clock>) -> Self {
        let (kept, kept_commit) = Default::default();
        Self { files, identity, clock, rotate_at: ROTATE_AT, kept, kept_commit }
    }

    /// The locks of the job's slots.
    pub(crate) fn locks(&self) -> FileLock {
        FileLock::in_dir(Arc::clone(&self.files.dir), Arc::clone(&self.identity), Arc::clone(&self.clock))
    }

    /// The locks that any job may name.
    pub(crate) fn named_locks(&self, state: &StateDir) -> Result<FileLock> {
        let dir = Arc::new(state.make_subdirectory("locks")?);
        Ok(FileLock::in_dir(dir, Arc::clone(&self.identity), Arc::clone(&self.clock)))
    }

    pub(crate) fn job(&self) -> &Name {
        &self.files.job
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Appends what `decide` makes of the sums so far, all or nothing; nothing when that is nothing.
    ///
    /// # Errors
    /// `NotAppended`: the ledger is as it was. `Io` when `NAME.commit` cannot be had within 10 seconds, or a signal
    /// ended the wait; `NewerFormat` and `Corrupt` of the ledger's end; what opening and making files may bring.
    pub(crate) fn append(&self, decide: impl FnOnce(&Totals) -> Vec<Event>) -> Result<Appended> {
        let commit = self.lock()?;
        let appended = self.append_locked(decide);
        self.kept_commit.set(commit.release());
        appended
    }

    /// The same of a start, which takes a fence of the job. `boot`: the kernel's boot id, empty when it is not known.
    ///
    /// # Errors
    /// As [`JobLedger::append`].
    pub(crate) fn append_start(
        &self,
        boot: &str,
        decide: impl FnOnce(&Totals, &Fences) -> Vec<Event>,
    ) -> Result<Appended> {
        let commit = self.lock()?;
        let JobFiles { dir, commit: name, .. } = &self.files;
        let appended = Fences::read(&commit, &dir.path_of(name), boot, dir.is_local())
            .and_then(|fences| self.append_locked(|totals| decide(totals, &fences)));
        self.kept_commit.set(commit.release());
        appended
    }

    /// Says that the start which took that fence is on disk.
    pub(crate) fn reserved(&self, next: &Next) {
        if let Some(mark) = &next.mark {
            self.with_commit(|commit| mark.leave(commit));
        }
    }

    /// Says that lines of the ledger may not be on disk although they are synced: the next start trusts none.
    pub(crate) fn distrust(&self) {
        self.with_commit(Mark::take_away);
    }

    /// `NAME.commit` as the last append left it, without its lock.
    fn with_commit(&self, act: impl FnOnce(&File)) {
        let kept = self.kept_commit.take();
        if let Some((file, _)) = &kept {
            act(file);
        }
        self.kept_commit.set(kept);
    }

    /// The sums so far; takes no lock.
    pub(crate) fn totals(&self) -> Result<Totals> {
        Ok(self.files.totals()?.unwrap_or_default())
    }

    fn lock(&self) -> Result<HeldFile> {
        let JobFiles { dir, commit, job, .. } = &self.files;
        let until = Until::At(Instant::now() + PATIENCE);
        match HeldFile::acquire(dir, commit, Missing::Create, until, self.kept_commit.take())? {
            Taken::Held(held) => Ok(held),
            Taken::Reentrant => Err(Error::Reentrant(job.clone())),
            Taken::Busy(_) | Taken::Missing => {
                Err(Error::io("wait any longer for", dir.path_of(commit), io::ErrorKind::TimedOut))
            }
        }
    }

    fn append_locked(&self, decide: impl FnOnce(&Totals) -> Vec<Event>) -> Result<Appended> {
        let mut open = self.open()?;
        let events = decide(&open.totals);
        let path = self.files.dir.path_of(&self.files.ledger);
        // Runs that wait in the lane must not be forgotten: of the ledger before the last one nothing is left. (Within limits.)
        let limit = if open.totals.queued == 0 { self.rotate_at } else { self.rotate_at.saturating_mul(WAITING) };
        if !events.is_empty() && open.size > limit {
            open = self.rotate(open)?;
        }
        // As the line keeps it, so that the sums here are those that the next one reads.
        let time = self.clock.now().trunc_subsecs(6);
        let mut lines = Vec::new();
        let mut totals = open.totals.clone();
        if !open.at_line_start {
            lines.push(b'\n');
        }
        let stamp = |event| {
            let is_first = matches!(event, Event::Started(_) | Event::NotRun(_));
            let invocation_id = self.identity.invocation_id().filter(|_| is_first).map(str::to_owned);
            Entry { time, host: self.identity.host().to_owned(), pid: self.identity.pid(), invocation_id, event }
        };
        let entries: Vec<_> = events.into_iter().map(stamp).collect();
        for entry in &entries {
            totals = totals.after(entry);
            line::encode(entry, &totals, &mut lines);
        }
        if !entries.is_empty() {
            if open.size == 0 {
                self.files.dir.sync()?;
            }
            if let Err(e) = open.file.write_all_at(&lines, open.size) {
                // Should that fail too, there is a torn end, which the next append copes with.
                let _ = open.file.set_len(open.size);
                return Err(Error::NotAppended { path, source: Arc::new(e) });
            }
            open.size += lines.len() as u64;
            open.at_line_start = true;
            open.totals = totals.clone();
        }
        let file = Arc::clone(&open.file);
        self.kept.set(Some(open));
        Ok(Appended { entries, totals, file, path })
    }

    fn open(&self) -> Result<Open> {
        let JobFiles { dir, ledger, .. } = &self.files;
        let kept = match self.kept.take() {
            // Unless it was put aside meanwhile.
            Some(kept) => dir.stat(ledger)?.filter(|now| now.id == kept.id).map(|now| (kept, now.size)),
            None => None,
        };
        let (file, id, size) = match kept {
            Some((kept, size)) if size == kept.size => return Ok(kept),
            Some((kept, size)) => (kept.file, kept.id, size),
            None => {
                let (file, stat) = dir.open_or_create(ledger)?;
                (Arc::new(file), stat.id, stat.size)
            }
        };
        let tail = Tail::read(&self.files, ledger, &file, size)?;
        let totals = match tail.totals {
            Some(totals) => totals,
            None => self.files.totals_of(&self.files.old)?.unwrap_or_default(),
        };
        Ok(Open { file, id, size, at_line_start: tail.at_line_start, totals })
    }

    fn rotate(&self, before: Open) -> Result<Open> {
        let JobFiles { dir, ledger, old, .. } = &self.files;
        before.file.sync_data().map_err(|e| Error::io("sync", dir.path_of(ledger), e))?;
        dir.rename(ledger, old)?;
        let (file, stat) = dir.open_or_create(ledger)?;
        let (file, id, size) = (Arc::new(file), stat.id, stat.size);
        Ok(Open { file, id, size, at_line_start: true, totals: before.totals })
    }
}

#[cfg(test)]
impl JobLedger {
    /// The same that puts a ledger aside when it is larger than that.
    pub(crate) fn rotating_at(mut self, bytes: u64) -> Self {
        self.rotate_at = bytes;
        self
    }
}

impl std::fmt::Debug for JobLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobLedger").field("files", &self.files).finish_non_exhaustive()
    }
}

impl JobFiles {
    /// The sums of the last intact line, or `None` when there is none; takes no lock.
    ///
    /// A ledger is put aside before the next one is made, so whoever finds no line in the one finds it in the other.
    pub(crate) fn totals(&self) -> Result<Option<Totals>> {
        match self.totals_of(&self.ledger)? {
            None => self.totals_of(&self.old),
            found => Ok(found),
        }
    }

    fn totals_of(&self, name: &str) -> Result<Option<Totals>> {
        let Some((file, stat)) = self.dir.open(name, Access::Read)? else { return Ok(None) };
        Ok(Tail::read(self, name, &file, stat.size)?.totals)
    }
}

/// The end of a ledger.
pub(super) struct Tail {
    pub(super) totals: Option<Totals>,
    at_line_start: bool,
}

impl Tail {
    pub(super) fn read(files: &JobFiles, name: &str, file: &File, size: u64) -> Result<Self> {
        let mut block = TAIL;
        loop {
            let start = size.saturating_sub(block);
            let mut bytes = vec![0; usize::try_from(size - start).unwrap_or_default()];
            let read = read_at(file, &mut bytes, start).map_err(|e| Error::io("read", files.dir.path_of(name), e))?;
            bytes.truncate(read);
            let at_line_start = bytes.last().is_none_or(|last| *last == b'\n');
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                // (memchr would ask the processor first what it can do, which a virtual machine traps: 50 µs of a start.)
                let newline = rest.iter().rposition(|byte| *byte == b'\n');
                if newline.is_none() && start > 0 {
                    break; // It begins before the block.
                }
                let from = newline.map_or(0, |at| at + 1);
                let offset = start + from as u64;
                match line::totals(&rest[from..]) {
                    Ok(totals) => return Ok(Self { totals: Some(totals), at_line_start }),
                    Err(Unreadable::Bad) => {}
                    Err(Unreadable::Newer(found)) => {
                        return Err(Error::NewerFormat { path: files.dir.path_of(name), found });
                    }
                    Err(Unreadable::Unknown(why)) => {
                        return Err(Error::Corrupt { path: files.dir.path_of(name), offset, why });
                    }
                }
                rest = &rest[..newline.unwrap_or_default()];
            }
            if start == 0 {
                return Ok(Self { totals: None, at_line_start });
            }
            block *= 2;
        }
    }
}
