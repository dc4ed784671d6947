//! HEAL: a ledger that cannot be trusted to its end is copied to a new file, under both locks.
//!
//! Never cut or rewritten in place: ext4 loses the result at a power cut, and after a write-back error the kernel has
//! marked the lost pages clean, so only new pages of a new file reach the disk. The copy has the next generation, so
//! every state, note and index of the old one is void at once. The order, and what each step prevents:
//!
//! 1. read, verify and write in one pass: a page that was read twice might have been dropped and read back stale;
//! 2. `fsync` the copy: the new name must never mean a file that is not on disk;
//! 3. rename it over the ledger, `fsync` the directory: before the next answer, or a power cut would bring the old one
//!    back and the state would name a generation from the future;
//! 4. publish the state of the new generation.
//!
//! A process killed anywhere in it leaves the old ledger, or the new one without its state: either way the next
//! command heals again.

use std::{fs::File, io::Write, os::unix::fs::FileExt};

use super::{
    commit::lock_sync,
    files::TripFiles,
    ledger::{Ledger, Mark, Verified},
    line::Line,
    note::Note,
    state_file::State,
};
use crate::{
    booking::Totals,
    clock::rfc3339,
    dir::Access,
    error::{Error, Result},
};

/// Copies the ledger unless somebody has healed it meanwhile. The caller holds `NAME.lock`.
pub(super) fn heal(files: &TripFiles, ledger: &Ledger, torn: bool) -> Result<()> {
    let sync = lock_sync(files, None)?;
    let generation = ledger.generation();
    let state = State::read(files)?.filter(|state| state.generation == generation);
    if let Some(state) = &state {
        let condemned = Note::read(files, &sync, generation)?.is_some_and(|n| n.condemns(generation, state.durable));
        if !torn && !condemned {
            return Ok(());
        }
    }
    let fresh = files.dir.create_fresh(&files.fresh_ledger)?;
    let failed = |operation, e| Error::io(operation, files.dir.path_of(&files.fresh_ledger), e);
    let verified = copy(ledger, &fresh).map_err(|e| {
        // A ledger that is refused is left as it was found, without a copy beside it; that error is the one to tell.
        let _ = files.dir.unlink(&files.fresh_ledger);
        match e {
            Copy::Read(e) => e,
            Copy::Write(e) => failed("write", e),
        }
    })?;
    let durable = state.map_or(0, |state| state.durable);
    if verified.end.offset < durable {
        files.dir.unlink(&files.fresh_ledger)?;
        return Err(ledger.corrupt(verified.end.offset, "a bad line among those that were on disk"));
    }
    fresh.set_len(verified.end.offset).map_err(|e| failed("cut", e))?;
    fresh.sync_all().map_err(|e| failed("sync", e))?;
    files.dir.rename(&files.fresh_ledger, &files.ledger)?;
    files.dir.sync()?;
    State { generation: generation + 1, durable: verified.end.offset, totals: verified.end.totals }.publish(files)
}

enum Copy {
    Read(Error),
    Write(std::io::Error),
}

fn copy(ledger: &Ledger, fresh: &File) -> Result<Verified, Copy> {
    let mut to = std::io::BufWriter::with_capacity(256 * 1024, fresh);
    let mut written = Ok(());
    let size = ledger.size().map_err(Copy::Read)?;
    let verified = ledger
        .verify_each(Mark::START, size, |offset, bytes| {
            let line = if offset == 0 { next_generation(bytes) } else { None };
            let line = line.as_deref().unwrap_or(bytes);
            if written.is_ok() {
                written = to.write_all(line).and_then(|()| to.write_all(b"\n"));
            }
        })
        .map_err(Copy::Read)?;
    written.and_then(|()| to.flush()).map_err(Copy::Write)?;
    Ok(verified)
}

/// The first line with the next generation; as long as the old one.
fn next_generation(first: &[u8]) -> Option<Vec<u8>> {
    let mut line = Line::decode(first).ok()?;
    line.head.as_mut()?.generation += 1;
    let mut bytes = Vec::with_capacity(first.len() + 1);
    line.encode(&rfc3339(line.time), &mut bytes);
    bytes.pop();
    debug_assert_eq!(bytes.len(), first.len(), "a new generation moves no byte");
    Some(bytes)
}

/// Makes the first ledger of a trip, from its first lines, and its state. Durable under its name when this returns. The
/// caller holds `NAME.lock`.
///
/// # Errors
/// `Uncertain` once the ledger has its name; anything else before.
pub(super) fn found(files: &TripFiles, lines: &[u8], totals: Totals) -> Result<Ledger> {
    let sync = lock_sync(files, None)?;
    // The note gets its block now: no later one can fail for want of space.
    Note::begin(1, 0).write(files, &sync)?;
    let fresh = files.dir.create_fresh(&files.fresh_ledger)?;
    let failed = |operation, e| Error::io(operation, files.dir.path_of(&files.fresh_ledger), e);
    fresh.write_all_at(lines, 0).map_err(|e| failed("write", e))?;
    fresh.sync_all().map_err(|e| failed("sync", e))?;
    files.dir.rename(&files.fresh_ledger, &files.ledger)?;
    // From here on there is a trip, whatever fails.
    let finish = || {
        files.dir.sync()?;
        let ledger = open_founded(files)?;
        State { generation: ledger.generation(), durable: lines.len() as u64, totals }.publish(files)?;
        Ok(ledger)
    };
    finish().map_err(|e: Error| Error::Uncertain { request_id: None, why: e.to_string() })
}

fn open_founded(files: &TripFiles) -> Result<Ledger> {
    Ledger::open(&files.dir, &files.ledger, &files.trip, Access::ReadWrite)?
        .ok_or_else(|| Error::io("open", files.dir.path_of(&files.ledger), std::io::ErrorKind::NotFound))
}
