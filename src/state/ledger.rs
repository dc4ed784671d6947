//! The ledger, `NAME.jsonl`: append-only, a line an event, and the authority on what happened.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf};

use super::line::{self, Line};
use crate::{
    booking::{Event, Totals},
    dir::{Access, Dir, FileId, stat_file},
    error::{Error, Result},
    name::Name,
    sealed,
};

/// How much is read at once.
const CHUNK: usize = 256 * 1024;

/// An open ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    file: File,
    id: FileId,
    path: PathBuf,
    generation: u64,
}

/// A place between two lines, and the sums of all lines before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) offset: u64,
    pub(super) totals: Totals,
}

impl Mark {
    pub(super) const START: Self = Self { offset: 0, totals: Totals::NOTHING };
}

/// What follows the last complete unit (a line, or a batch with its own line).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    Clean,
    /// A line that was cut short, or a batch without its end: never answered, and in the way of the next append.
    Torn,
}

/// How far a ledger can be trusted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verified {
    /// The end of the last complete unit.
    pub(super) end: Mark,
    pub(super) tail: Tail,
}

impl Ledger {
    /// Opens the ledger of a trip, or says that there is none.
    ///
    /// # Errors
    /// `NewerFormat`; `Corrupt` when the first line is not the head of that trip's ledger. It was durable before the
    /// ledger had its name, so a bad one is never just a torn tail.
    pub(super) fn open(dir: &Dir, file_name: &str, trip: &Name, access: Access) -> Result<Option<Self>> {
        let Some((file, stat)) = dir.open(file_name, access)? else { return Ok(None) };
        let mut ledger = Self { file, id: stat.id, path: dir.path_of(file_name), generation: 0 };
        let mut buffer = [0; line::LONGEST];
        let mut filled = 0;
        while filled < buffer.len() {
            match ledger.read_at(&mut buffer[filled..], filled as u64)? {
                0 => break,
                more => filled += more,
            }
        }
        let end = memchr::memchr(b'\n', &buffer[..filled]).unwrap_or(filled);
        let first = &buffer[..end];
        refuse_newer(&ledger.path, first)?;
        let head = match Line::decode(first) {
            Ok(line) => line.head.ok_or_else(|| "the first line names no generation".to_owned()),
            Err(why) => Err(format!("the first line: {why}")),
        };
        match head {
            Ok(head) if head.trip == *trip => ledger.generation = head.generation,
            Ok(head) => return Err(ledger.corrupt(0, format!("it is the ledger of trip {}", head.trip))),
            Err(why) => return Err(ledger.corrupt(0, why)),
        }
        Ok(Some(ledger))
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn size(&self) -> Result<u64> {
        Ok(stat_file(&self.file).map_err(|e| Error::io("stat", &self.path, e))?.size)
    }

    pub(super) fn corrupt(&self, offset: u64, why: impl Into<String>) -> Error {
        Error::Corrupt { path: self.path.clone(), offset, why: why.into() }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, e)),
                Ok(read) => return Ok(read),
            }
        }
    }

    /// The bytes of a range, or fewer when the file ends before.
    pub(super) fn read_range(&self, start: u64, end: u64) -> Result<Vec<u8>> {
        let len = usize::try_from(end.saturating_sub(start)).expect("a range is read that fits the memory");
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.read_at(&mut bytes[filled..], start + filled as u64)? {
                0 => break,
                more => filled += more,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// The line that begins at `offset`, which is below `durable`: an index names it.
    pub(super) fn line_at(&self, offset: u64) -> Result<Line> {
        let bytes = self.read_range(offset, offset + line::LONGEST as u64)?;
        let end = memchr::memchr(b'\n', &bytes).unwrap_or(bytes.len());
        Line::decode(&bytes[..end]).map_err(|why| self.corrupt(offset, why))
    }

    /// The last bytes before `offset`: of a line that ends there, its checksum.
    pub(super) fn anchor(&self, offset: u64) -> Result<String> {
        let bytes = self.read_range(offset.saturating_sub(sealed::CHECKSUM_LEN as u64 + 1), offset)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether a line ends at `offset`.
    pub(super) fn line_ends_at(&self, offset: u64) -> Result<bool> {
        let Some(last) = offset.checked_sub(1) else { return Ok(true) };
        Ok(self.read_range(last, offset)? == b"\n")
    }

    /// Calls `each` with every line of a range and its offset, in order, in constant memory; the last one may lack
    /// its newline (`complete` is false then). Stops when `each` says so.
    pub(super) fn lines(
        &self,
        start: u64,
        end: u64,
        mut each: impl FnMut(u64, &[u8], bool) -> Result<std::ops::ControlFlow<()>>,
    ) -> Result<()> {
        let mut held: Vec<u8> = Vec::new();
        let mut held_at = start;
        let mut next = start;
        while next < end {
            let chunk = self.read_range(next, end.min(next + CHUNK as u64))?;
            if chunk.is_empty() {
                break;
            }
            next += chunk.len() as u64;
            held.extend_from_slice(&chunk);
            let mut from = 0;
            while let Some(len) = memchr::memchr(b'\n', &held[from..]) {
                if each(held_at + from as u64, &held[from..from + len], true)?.is_break() {
                    return Ok(());
                }
                from += len + 1;
            }
            held.drain(..from);
            held_at += from as u64;
            if held.len() > line::LONGEST {
                // Not ours (a torn tail of NULs has no newline): hand it on in pieces rather than hold it all.
                if each(held_at, &held, false)?.is_break() {
                    return Ok(());
                }
                held_at += held.len() as u64;
                held.clear();
            }
        }
        if !held.is_empty() {
            let _ = each(held_at, &held, false)?;
        }
        Ok(())
    }

    /// Verifies the lines from `from` to `size`: checksums, consecutive revisions, sums, whole batches.
    ///
    /// # Errors
    /// `Corrupt` when a bad line is followed by an intact one whose writer knew bytes beyond the bad line to be
    /// durable: then the bad line was durable once, and answered.
    pub(super) fn verify(&self, from: Mark, size: u64) -> Result<Verified> {
        self.verify_each(from, size, |_, _| {})
    }

    /// The same, and hands on every good line with its offset, in order, from the bytes that were verified. The last
    /// ones may belong to a batch without its end.
    pub(super) fn verify_each(&self, from: Mark, size: u64, mut good: impl FnMut(u64, &[u8])) -> Result<Verified> {
        let mut fold = Fold::new(from);
        let mut bad: Option<(u64, String)> = None;
        self.lines(from.offset, size, |offset, bytes, complete| {
            if let Some((at, why)) = &bad {
                if complete && sealed::is_intact(bytes) && line::synced(bytes).is_some_and(|synced| synced > *at) {
                    return Err(self.corrupt(*at, why.clone()));
                }
            } else {
                let taken = if complete { fold.take(offset, bytes) } else { Err("cut short".to_owned()) };
                match taken {
                    Ok(()) => good(offset, bytes),
                    Err(why) => bad = Some((offset, why)),
                }
            }
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        let tail = if bad.is_some() || fold.in_batch() { Tail::Torn } else { Tail::Clean };
        Ok(Verified { end: fold.end, tail })
    }
}

/// Adds lines up, and remembers the last place at which all units were complete.
pub(super) struct Fold {
    /// After the last complete unit.
    pub(super) end: Mark,
    /// After the last line.
    now: Totals,
    /// Lines of a batch whose own line has not come yet.
    open_batch: u64,
}

impl Fold {
    pub(super) fn new(from: Mark) -> Self {
        Self { end: from, now: from.totals, open_batch: 0 }
    }

    pub(super) fn in_batch(&self) -> bool {
        self.open_batch > 0
    }

    /// One more line, at `offset`.
    pub(super) fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let line = Line::decode(bytes)?;
        if line.revision != self.now.revision + 1 {
            return Err(format!("revision {} follows {}", line.revision, self.now.revision));
        }
        if line.head.is_some() != (offset == 0) {
            return Err("the head of a ledger belongs in its first line, and only there".to_owned());
        }
        match (&line.event, line.in_batch) {
            (Event::Batch { count }, false) if *count == self.open_batch => self.open_batch = 0,
            (Event::Batch { .. }, _) => return Err("the end of another batch".to_owned()),
            (_, true) => self.open_batch += 1,
            (_, false) if self.in_batch() => return Err("it interrupts a batch".to_owned()),
            (_, false) => {}
        }
        let totals = self.now.after(&line.event, line.fence)?;
        if totals.seats_left != line.seats_left {
            return Err(format!("{} seats left, and the lines before make {}", line.seats_left, totals.seats_left));
        }
        self.now = totals;
        if self.open_batch == 0 {
            self.end = Mark { offset: offset + bytes.len() as u64 + 1, totals };
        }
        Ok(())
    }
}

/// A file that begins with a newer `format` is left alone.
pub(super) fn refuse_newer(path: &std::path::Path, json: &[u8]) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u64,
    }
    match serde_json::from_slice::<Format>(json) {
        Ok(Format { format }) if format > crate::FORMAT => {
            Err(Error::NewerFormat { path: path.to_owned(), found: format })
        }
        _ => Ok(()),
    }
}
