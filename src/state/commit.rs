//! The commit protocol: two locks, one sync for everybody, no daemon.
//!
//! An answer may be given when everything it rests on would survive a power cut. Syncing under the trip's own lock is
//! right and slow: everybody waits for everybody's disk. Everybody syncing for himself is fast and wrong: it lost
//! acknowledged bookings when the file system died under load, because a write-back error is reported to one caller
//! and the others get 0. So a second lock decides who syncs, and the others find their lines covered.
//!
//! Under **`NAME.lock`** (in [`super::locked`]):
//!
//! 1. Open the ledger, read its generation G and the state. A state of a later generation, or one that claims more
//!    bytes than there are, is corruption: nothing is touched.
//! 2. Verify the lines behind `durable`. A torn tail, an unreadable state or one of an earlier generation: HEAL
//!    ([`super::heal`]), which takes `NAME.sync` too. The order is always `.lock`, then `.sync`; nobody asks for
//!    `.lock` while holding `.sync` (that deadlocked).
//! 3. Decide, append, release. What must be durable before the answer, the *target*, is the end of the own line; for
//!    an answer without one, the end of all lines that it may rest on.
//!
//! Under **`NAME.sync`** (here), for one ledger whose descriptor is kept open from step 1, so that no write-back error
//! since then can be missed:
//!
//! 4. State of the same generation with `durable` ≥ target: answer; somebody synced for us.
//! 5. Ledger replaced, or state unusable: start again with the same request id, which finds the line or books anew.
//! 6. A note that condemns, or that announces a sync which never was published (its writer was killed between
//!    consuming an error and telling): condemn, start again, heal.
//! 7. E = the end of the last complete unit, verified from the target on; never the file's size, which may lie in
//!    the middle of somebody's write.
//! 8. Write the note (G, E), so that step 6 works for our successor. `fdatasync`. On an error condemn and start again.
//! 9. Publish the state (G, E). This comes after the sync, so the state is never ahead of the disk; and it is a write
//!    of its own, so it catches a file system that died while `fdatasync` returned 0.
//!
//! Want of space or descriptors in step 9, after a good sync, restores the note and ends "uncertain"; any other
//! failure there condemns.

use std::{
    fs::File,
    io,
    time::{Duration, Instant},
};

use super::{
    files::TripFiles,
    ledger::{Ledger, Mark},
    note::Note,
    state_file::State,
};
use crate::{
    dir::FileId,
    error::{Error, Result},
    lock::{HeldFile, Missing, Taken, Until},
};

/// How long both locks are waited for once something was appended, whatever the caller's own wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How bookings are made durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CommitMode {
    /// Sync under a lock of its own, once for everybody: the protocol of this store.
    #[default]
    TwoLocks,
    /// Sync under the trip's lock, each for itself: simpler and slower, the first one's oracle in the tests.
    OneLock,
}

/// Whether the target is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Synced {
    Durable,
    /// What was appended may be lost. Look again, and heal if the note says so.
    StartAgain,
}

/// `NAME.sync`, waited for with patience.
///
/// # Errors
/// `Io` (timed out, or interrupted) when it cannot be had.
pub(super) fn lock_sync(files: &TripFiles, kept: Option<(File, FileId)>) -> Result<HeldFile> {
    let until = Until::At(Instant::now() + PATIENCE);
    match HeldFile::acquire(&files.dir, &files.sync, Missing::Create, until, kept)? {
        Taken::Held(held) => Ok(held),
        Taken::Reentrant => Err(Error::Reentrant(files.trip.clone())),
        Taken::Busy(_) | Taken::Missing => {
            Err(Error::io("wait any longer for", files.dir.path_of(&files.sync), io::ErrorKind::TimedOut))
        }
    }
}

/// Steps 4 to 9. `target`: what must be durable, and the sums there.
/// `kept`: the lock's file between two commits.
pub(super) fn make_durable(
    files: &TripFiles,
    ledger: &Ledger,
    target: Mark,
    kept: &mut Option<(File, FileId)>,
) -> Result<Synced> {
    let sync = lock_sync(files, kept.take())?;
    let synced = sync_for_all(files, ledger, target, &sync)?;
    *kept = sync.release();
    Ok(synced)
}

fn sync_for_all(files: &TripFiles, ledger: &Ledger, target: Mark, sync: &HeldFile) -> Result<Synced> {
    let generation = ledger.generation();
    let state = State::read(files)?.filter(|state| state.generation == generation);
    let Some(state) = state else { return Ok(Synced::StartAgain) };
    if state.durable >= target.offset {
        return Ok(Synced::Durable);
    }
    if !files.ledger_is(ledger.id())? {
        return Ok(Synced::StartAgain);
    }
    let condemn = || Note::condemn(generation).write(files, sync);
    if Note::read(files, sync, generation)?.is_some_and(|note| note.condemns(generation, state.durable)) {
        condemn()?;
        return Ok(Synced::StartAgain);
    }
    let end = ledger.verify(target, ledger.size()?)?.end;
    Note::begin(generation, end.offset).write(files, sync)?;
    if ledger.file().sync_data().is_err() {
        condemn()?;
        return Ok(Synced::StartAgain);
    }
    match (State { generation, durable: end.offset, totals: end.totals }).publish(files) {
        Ok(()) => Ok(Synced::Durable),
        Err(e) if wants_space(&e) => {
            Note::begin(generation, state.durable).write(files, sync)?;
            Err(e)
        }
        Err(_) => {
            condemn()?;
            Ok(Synced::StartAgain)
        }
    }
}

/// The first protocol's way, under `NAME.lock`: the note is written only to condemn.
pub(super) fn make_durable_alone(files: &TripFiles, ledger: &Ledger, end: Mark) -> Result<Synced> {
    let sync = lock_sync(files, None)?;
    let generation = ledger.generation();
    if Note::read(files, &sync, generation)?.is_some_and(|note| note.condemned && note.generation == generation) {
        return Ok(Synced::StartAgain);
    }
    // An answer without a line asks after the lock is released: others may have gone on.
    if State::read(files)?.is_some_and(|state| state.generation == generation && state.durable >= end.offset) {
        return Ok(Synced::Durable);
    }
    if ledger.file().sync_data().is_err() {
        Note::condemn(generation).write(files, &sync)?;
        return Ok(Synced::StartAgain);
    }
    State { generation, durable: end.offset, totals: end.totals }.publish(files)?;
    Ok(Synced::Durable)
}

/// Out of space, quota, inodes or descriptors: nothing is wrong with what was written.
fn wants_space(error: &Error) -> bool {
    let (Error::Io { source, .. } | Error::CannotCreate { source, .. }) = error else { return false };
    matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}
