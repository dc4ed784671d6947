//! The index, `NAME.idx`: from a student or a request id to the ledger line that speaks of it last.
//!
//! It makes validation as cheap with a million bookings as with ten, and it is only ever a copy: whoever doubts it
//! throws it away and builds it anew from the ledger. The file is
//!
//! - two **headers** of one block each, JSON padded with spaces. The intact one with the higher sequence counts. It
//!   names the generation, how many ledger bytes are **covered**, and the runs;
//! - **runs**, append-only: a run is a hash table of the lines of one stretch of the ledger, a block a bucket, sorted
//!   by hash. A lookup reads one block of each run, newest first. Runs of similar size are merged into one at each
//!   checkpoint, and small ones always, so a million lines have some ten.
//!
//! **Checkpoint** (in [`writer`]), under the flock of the file itself: append the new run, `fdatasync`, and only then
//! write the header, over the older of the two. So a header on disk means runs on disk, also after a power cut (a
//! header that was trusted without that sync missed keys in 8 of 400 cuts), and a reader that takes no lock finds one
//! intact header at any moment. Ledger bytes beyond the covered ones are scanned.

mod run;
mod writer;

use std::{fs::File, os::unix::fs::FileExt};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::{
    files::TripFiles,
    ledger::{Ledger, refuse_newer},
};
use crate::{
    dir::Access,
    error::{Error, Result},
    lock::{HeldFile, Missing, Taken, Until},
    sealed,
};
use run::Run;
pub(super) use writer::{Fields, checkpoint};

/// The size of a header and of a bucket, in bytes: half a page, since a lookup sums up one of each run.
const BLOCK: usize = 2048;

/// Blocks before the first run.
const HEADERS: u64 = 2;

/// Uncovered ledger bytes from which a checkpoint is worth its sync.
pub(super) const CHECKPOINT_AT: u64 = 16 * 1024;

/// What is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key<'k> {
    Student(&'k [u8]),
    RequestId(&'k [u8]),
}

/// The keys of the hash: random for each index, so that nobody can choose names that fall into one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seed(u64, u64);

impl Seed {
    fn hash(self, key: Key) -> u64 {
        use std::hash::Hasher as _;
        let (kind, text) = match key {
            Key::Student(text) => (b's', text),
            Key::RequestId(text) => (b'r', text),
        };
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(&[kind]);
        hasher.write(text);
        hasher.finish()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    format: u64,
    generation: u64,
    /// Grows with each checkpoint.
    sequence: u64,
    /// Ledger bytes whose lines are in the runs.
    covered: u64,
    /// The end of the last covered line, with its checksum. A copy of the directory that was made while somebody booked
    /// may have an index from later than its ledger, which then grows other lines.
    anchor: String,
    /// Blocks of the file that are in use, headers included.
    blocks: u64,
    seed: Seed,
    /// Oldest stretch first.
    runs: Vec<Run>,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        sealed::sealed_block(self, BLOCK)
    }

    fn decode(block: &[u8]) -> Option<Self> {
        let bytes = block.trim_ascii_end();
        sealed::is_intact(bytes).then(|| serde_json::from_slice(bytes).ok()).flatten()
    }

    /// Whether it is about just this ledger: its generation, and the very line that ends where the covered ones do.
    fn is_of(&self, ledger: &Ledger) -> Result<bool> {
        Ok(self.generation == ledger.generation() && self.anchor == ledger.anchor(self.covered)?)
    }

    /// The header that counts, if either is intact.
    fn read(file: &File, path: &std::path::Path) -> Result<Option<Self>> {
        let mut headers = [0; 2 * BLOCK];
        let bytes = crate::lock::read_head(file, &mut headers).map_err(|e| Error::io("read", path, e))?;
        let mut best: Option<Self> = None;
        for block in bytes.chunks(BLOCK) {
            refuse_newer(path, block.trim_ascii_end())?;
            if let Some(header) = Self::decode(block) {
                if best.as_ref().is_none_or(|best| best.sequence < header.sequence) {
                    best = Some(header);
                }
            }
        }
        Ok(best)
    }
}

/// An index open for lookups.
#[derive(Debug)]
pub(super) struct Index {
    file: File,
    header: Header,
}

/// Voids an index with a damaged block, so that the next checkpoint builds it anew; unless somebody is at it.
pub(super) fn distrust(files: &TripFiles) -> Result<()> {
    if let Taken::Held(held) = HeldFile::acquire(&files.dir, &files.index, Missing::GiveUp, Until::Now, None)? {
        held.write(&[b' '; 2 * BLOCK]).map_err(|e| Error::io("void", files.dir.path_of(&files.index), e))?;
    }
    Ok(())
}

/// What a lookup comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    Here(T),
    Nowhere,
    /// A block is damaged.
    InDoubt,
}

impl Index {
    /// The index of the ledger up to `end`, if there is one to be trusted.
    pub(super) fn open(files: &TripFiles, ledger: &Ledger, end: u64) -> Result<Option<Self>> {
        let Some((file, _)) = files.dir.open(&files.index, Access::Read)? else { return Ok(None) };
        let header = Header::read(&file, &files.dir.path_of(&files.index))?;
        let Some(header) = header else { return Ok(None) };
        let index = Self { file, header };
        Ok(if index.is_of(ledger, end)? { Some(index) } else { None })
    }

    /// Whether it is about just this ledger, and about none of its bytes from `end` on.
    pub(super) fn is_of(&self, ledger: &Ledger, end: u64) -> Result<bool> {
        Ok(self.header.covered <= end && self.header.is_of(ledger)?)
    }

    /// Ledger bytes whose lines it knows.
    pub(super) fn covered(&self) -> u64 {
        self.header.covered
    }

    /// Asks `check` about the ledger offsets that may hold the key, newest first, until it accepts one.
    pub(super) fn find<T>(&self, key: Key, mut check: impl FnMut(u64) -> Result<Option<T>>) -> Result<Found<T>> {
        let hash = self.header.seed.hash(key);
        let mut block = [0; BLOCK];
        for run in self.header.runs.iter().rev() {
            if self.file.read_exact_at(&mut block, run.block_of(hash) * BLOCK as u64).is_err() {
                return Ok(Found::InDoubt);
            }
            let Some(entries) = run::entries(&block) else { return Ok(Found::InDoubt) };
            // Sorted by hash, then by offset.
            for entry in entries.rev().filter(|entry| entry.hash == hash) {
                if let Some(found) = check(entry.offset)? {
                    return Ok(Found::Here(found));
                }
            }
        }
        Ok(Found::Nowhere)
    }
}
