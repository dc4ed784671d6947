//! Finding the one line that matters: a student's booking, or the answer to a request id.
//!
//! The index knows the covered bytes; the tail behind them (at most some 16 KB when all is well) is read once and
//! searched. When the index cannot be written (a full disk), the uncovered lines are searched on disk: slow, and right.

use std::{cell::Cell, collections::HashMap};

use memchr::memmem;

use super::{
    files::TripFiles,
    index::{self, Found, Index, Key},
    ledger::{Ledger, Mark},
    line::Line,
};
use crate::{
    booking::Event,
    error::Result,
    lock::Until,
    name::{RequestId, Student},
    sealed,
};

/// Uncovered bytes from which the index is brought up before anything is looked up.
const CATCH_UP_AT: u64 = 1024 * 1024;

/// Lookups from which the tail is worth parsing into a map.
const MANY: usize = 4;

/// The ledger up to its verified end, ready to be asked.
#[derive(Debug)]
pub(super) struct Lookup<'l> {
    files: &'l TripFiles,
    ledger: &'l Ledger,
    index: Option<Index>,
    /// Where what the index knows ends.
    covered: u64,
    tail_start: u64,
    tail: Vec<u8>,
    /// The tail, parsed: where each key's last line begins in it.
    parsed: Option<Parsed>,
    in_doubt: Cell<bool>,
}

/// Where the last line of each key begins in the tail.
#[derive(Debug, Default)]
struct Parsed {
    students: HashMap<Vec<u8>, usize>,
    request_ids: HashMap<Vec<u8>, usize>,
}

impl<'l> Lookup<'l> {
    /// `durable` ≤ `end`; `lookups`: how many are to be expected; `kept`: an index that was open, and may be old.
    ///
    /// # Errors
    /// `Corrupt` when a line of the tail is bad that was on disk.
    pub(super) fn open(
        files: &'l TripFiles,
        ledger: &'l Ledger,
        durable: u64,
        end: Mark,
        lookups: usize,
        kept: Option<Index>,
    ) -> Result<Self> {
        let open = || {
            let index = Index::open(files, ledger, end.offset)?;
            let covered = index.as_ref().map_or(0, Index::covered);
            Ok((index, covered))
        };
        // An old one is right, and leaves more to be scanned. Once a checkpoint was due, there is a newer one.
        let kept = match kept {
            Some(kept) if end.offset.saturating_sub(kept.covered()) < index::CHECKPOINT_AT => {
                if kept.is_of(ledger, end.offset)? { Some(kept) } else { None }
            }
            _ => None,
        };
        let (mut index, mut covered) = match kept {
            Some(index) => {
                let covered = index.covered();
                (Some(index), covered)
            }
            None => open()?,
        };
        if end.offset - covered > CATCH_UP_AT {
            // Without space for an index the search goes on without one.
            let deadline = std::time::Instant::now() + super::commit::PATIENCE;
            match index::checkpoint(files, ledger, durable, Until::At(deadline)) {
                Ok(()) => (index, covered) = open()?,
                Err(e @ (crate::Error::Corrupt { .. } | crate::Error::NewerFormat { .. })) => return Err(e),
                Err(_) => {}
            }
        }
        let tail_start = if end.offset - covered > 4 * CATCH_UP_AT { durable } else { covered };
        let tail = ledger.read_range(tail_start, end.offset)?;
        let mut lookup =
            Self { files, ledger, index, covered, tail_start, tail, parsed: None, in_doubt: Cell::new(false) };
        lookup.verify_durable(durable)?;
        if lookups >= MANY {
            lookup.parse();
        }
        Ok(lookup)
    }

    /// The lines of the tail that were on disk must still be what was written. (Those behind have been verified.)
    fn verify_durable(&self, durable: u64) -> Result<()> {
        let mut from = 0;
        while self.tail_start + (from as u64) < durable {
            let len = memchr::memchr(b'\n', &self.tail[from..]).unwrap_or(self.tail.len() - from);
            if !sealed::is_intact(&self.tail[from..from + len]) {
                let offset = self.tail_start + from as u64;
                return Err(self.ledger.corrupt(offset, "the checksum of a line that was on disk does not match"));
            }
            from += len + 1;
        }
        Ok(())
    }

    /// Ledger bytes that the index knows.
    pub(super) fn covered(&self) -> u64 {
        self.covered
    }

    /// The index, for the next look-up, unless it is damaged.
    pub(super) fn into_index(self) -> Option<Index> {
        self.index.filter(|_| !self.in_doubt.get())
    }

    fn parse(&mut self) {
        let mut parsed = Parsed::default();
        let fields = index::Fields::new();
        let mut from = 0;
        while let Some(len) = memchr::memchr(b'\n', &self.tail[from..]) {
            for key in fields.keys(&self.tail[from..from + len]) {
                let (map, text) = match key {
                    Key::Student(text) => (&mut parsed.students, text),
                    Key::RequestId(text) => (&mut parsed.request_ids, text),
                };
                map.insert(text.to_owned(), from);
            }
            from += len + 1;
        }
        self.parsed = Some(parsed);
    }

    /// The last line that booked or cancelled for the student.
    pub(super) fn student(&self, student: &Student) -> Result<Option<Line>> {
        let is_it = |line: &Line| matches!(&line.event, Event::Booked { student: who, .. } | Event::Cancelled { student: who, .. } if who == student);
        self.last(Key::Student(student.as_str().as_bytes()), is_it)
    }

    /// The last line that answered the request id.
    pub(super) fn request(&self, id: &RequestId) -> Result<Option<Line>> {
        self.last(Key::RequestId(id.as_str().as_bytes()), |line| line.request_id.as_ref() == Some(id))
    }

    fn last(&self, key: Key, is_it: impl Fn(&Line) -> bool) -> Result<Option<Line>> {
        if let Some(line) = self.last_in_tail(key, &is_it)? {
            return Ok(Some(line));
        }
        if self.tail_start > self.covered {
            if let Some(line) = self.last_on_disk(key, self.covered, &is_it)? {
                return Ok(Some(line));
            }
        }
        let Some(index) = &self.index else { return Ok(None) };
        match index.find(key, |offset| self.ledger.line_at(offset).map(|line| Some(line).filter(&is_it)))? {
            Found::Here(line) => Ok(Some(line)),
            Found::Nowhere => Ok(None),
            Found::InDoubt => {
                // Void or not, the ledger knows.
                self.in_doubt.set(true);
                let _ = index::distrust(self.files);
                self.last_on_disk(key, 0, &is_it)
            }
        }
    }

    fn last_in_tail(&self, key: Key, is_it: impl Fn(&Line) -> bool) -> Result<Option<Line>> {
        let decode = |start: usize| {
            let len = memchr::memchr(b'\n', &self.tail[start..]).unwrap_or(self.tail.len() - start);
            Line::decode(&self.tail[start..start + len])
                .map_err(|why| self.ledger.corrupt(self.tail_start + start as u64, why))
        };
        if let Some(parsed) = &self.parsed {
            let start = match key {
                Key::Student(text) => parsed.students.get(text),
                Key::RequestId(text) => parsed.request_ids.get(text),
            };
            return start.map(|start| decode(*start)).transpose();
        }
        let mut before = self.tail.len();
        let needle = needle(key);
        let finder = memmem::FinderRev::new(&needle);
        while let Some(at) = finder.rfind(&self.tail[..before]) {
            let start = memchr::memrchr(b'\n', &self.tail[..at]).map_or(0, |newline| newline + 1);
            let line = decode(start)?;
            if is_it(&line) {
                return Ok(Some(line));
            }
            before = start;
        }
        Ok(None)
    }

    /// Reads everything from `start` to the tail.
    fn last_on_disk(&self, key: Key, start: u64, is_it: impl Fn(&Line) -> bool) -> Result<Option<Line>> {
        let needle = needle(key);
        let finder = memmem::Finder::new(&needle);
        let mut last = None;
        self.ledger.lines(start, self.tail_start, |offset, bytes, _| {
            if finder.find(bytes).is_some() {
                let line = Line::decode(bytes).map_err(|why| self.ledger.corrupt(offset, why))?;
                if is_it(&line) {
                    last = Some(line);
                }
            }
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok(last)
    }
}

/// How a key stands in a line.
fn needle(key: Key) -> Vec<u8> {
    let (name, text): (&[u8], _) = match key {
        Key::Student(text) => (b"\"student\":\"", text),
        Key::RequestId(text) => (b"\"request_id\":\"", text),
    };
    [name, text, b"\""].concat()
}
