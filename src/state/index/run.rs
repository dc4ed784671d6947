//! A run: the entries of one stretch of the ledger, in buckets of one block.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::BLOCK;

/// Checksum of the rest, and how many entries follow, little-endian.
const BLOCK_HEAD: usize = 8;
const ENTRY: usize = 16;
/// Entries that fit a block.
const CAPACITY: usize = (BLOCK - BLOCK_HEAD) / ENTRY;
/// Entries that a block has on average: at this filling one bucket in a million overflows, and then the run is made
/// with more of them.
const FILLING: u64 = 76;

/// A key's hash and the offset of the ledger line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) hash: u64,
    pub(super) offset: u64,
}

/// Where a run is in the file: first block, number of blocks, number of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) blocks: u64,
    pub(super) entries: u64,
}

impl Run {
    /// The block that holds the entries of that hash, if any does.
    pub(super) fn block_of(&self, hash: u64) -> u64 {
        self.first + bucket(hash, self.blocks)
    }
}

/// Buckets in the order of the hashes, so that writing a sorted run is writing its blocks one after another.
// The product's upper half is below `buckets`.
#[allow(clippy::cast_possible_truncation)]
fn bucket(hash: u64, buckets: u64) -> u64 {
    ((u128::from(hash) * u128::from(buckets)) >> 64) as u64
}

/// How many blocks to try first for that many entries.
pub(super) fn blocks_for(entries: u64) -> u64 {
    // A single block may be full; more of them fill unevenly.
    if entries <= CAPACITY as u64 { 1 } else { entries.div_ceil(FILLING) }
}

/// The entries of a block in order, or `None` when it is damaged.
pub(super) fn entries(block: &[u8; BLOCK]) -> Option<impl DoubleEndedIterator<Item = Entry> + '_> {
    let number = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"));
    let count = number(4) as usize;
    if count > CAPACITY || number(0) != crc32fast::hash(&block[4..]) {
        return None;
    }
    let long = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    Some(
        block[BLOCK_HEAD..BLOCK_HEAD + count * ENTRY]
            .chunks_exact(ENTRY)
            .map(move |entry| Entry { hash: long(&entry[..8]), offset: long(&entry[8..]) }),
    )
}

/// Writes sorted entries as `blocks` buckets. `false`: a bucket overflowed, and the caller tries more of them.
pub(super) fn write(
    to: &mut impl Write,
    blocks: u64,
    sorted: impl Iterator<Item = io::Result<Entry>>,
) -> io::Result<bool> {
    let mut block = [0u8; BLOCK];
    let mut count = 0;
    let mut current = 0;
    for entry in sorted {
        let entry = entry?;
        let bucket = bucket(entry.hash, blocks);
        while current < bucket {
            flush(to, &mut block, count)?;
            count = 0;
            current += 1;
        }
        if count == CAPACITY {
            return Ok(false);
        }
        let at = BLOCK_HEAD + count * ENTRY;
        block[at..at + 8].copy_from_slice(&entry.hash.to_le_bytes());
        block[at + 8..at + ENTRY].copy_from_slice(&entry.offset.to_le_bytes());
        count += 1;
    }
    while current < blocks {
        flush(to, &mut block, count)?;
        count = 0;
        current += 1;
    }
    Ok(true)
}

fn flush(to: &mut impl Write, block: &mut [u8; BLOCK], count: usize) -> io::Result<()> {
    block[BLOCK_HEAD + count * ENTRY..].fill(0);
    // At most CAPACITY.
    #[allow(clippy::cast_possible_truncation)]
    block[4..8].copy_from_slice(&(count as u32).to_le_bytes());
    let checksum = crc32fast::hash(&block[4..]);
    block[..4].copy_from_slice(&checksum.to_le_bytes());
    to.write_all(&block[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_in_the_block_of_its_hash() {
        let mut sorted: Vec<Entry> =
            (0..10_000u64).map(|n| Entry { hash: n.wrapping_mul(0x9E37_79B9_7F4A_7C15), offset: n }).collect();
        sorted.sort_unstable();
        let run = Run { first: 0, blocks: blocks_for(10_000), entries: 10_000 };
        let mut file = Vec::new();
        assert!(write(&mut file, run.blocks, sorted.iter().copied().map(Ok)).unwrap());
        assert_eq!(file.len() as u64, run.blocks * BLOCK as u64);
        for entry in &sorted {
            let at = usize::try_from(run.block_of(entry.hash)).unwrap() * BLOCK;
            let block: &[u8; BLOCK] = file[at..at + BLOCK].try_into().unwrap();
            assert!(entries(block).unwrap().any(|found| found == *entry));
        }
        file[100] ^= 1;
        assert!(entries(file[..BLOCK].try_into().unwrap()).is_none());
    }

    #[test]
    fn an_overflow_is_told() {
        let same = (0..=CAPACITY as u64).map(|offset| Ok(Entry { hash: 1, offset }));
        assert!(!write(&mut Vec::new(), 4, same).unwrap());
    }
}
