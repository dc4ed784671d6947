//! Which fence a run gets, and whether its start must be on disk before its command.
//!
//! A command shows its fence to others, so no fence is ever given twice, whatever happens. A sync of each start before
//! its command would do; but it is a third of what a short run costs. So fences are reserved 64 at a time:
//!
//! 1. A start whose fence is not reserved reserves it and the 63 above it: its line says `reserved`, the sums of every
//!    later line repeat it, and it is synced before the command starts.
//! 2. Then `NAME.commit` gets a mark: up to here reserved, on disk, in this *era*. An era is one boot's one mount of
//!    one `NAME.commit`.
//! 3. A start whose fence is within such a mark of the present era is not synced before its command. All others go on
//!    above all that was ever reserved, and from 1. Numbers may be left out, but none comes twice:
//!
//! - *Kill, at whatever point.* What was written is read by whoever comes next, synced or not; a fence is in the ledger
//!   before its command starts, and the next is above the ledger's highest. A kill between line and sync, or between
//!   sync and mark, leaves a mark that does not name what the sums say is reserved: so it counts for nothing.
//! - *Power cut.* It takes lines and notes from the end of the last sync on, and with them fences that were shown. All of those
//!   were within a mark, so the line that reserved them had been synced, and that line, or a later one that repeats it,
//!   is still there. After the cut it is another boot, so no mark counts, and the next fence is above what is reserved.
//!   The mark itself is never synced and nothing rests on it after a cut: it may then be old, new, torn or gone.
//! - *The same without a reboot* (a disk that was pulled out): a file system that lost something must be mounted anew, and
//!   that is a mount with another id. Unique ids are never used again within a boot; plain ones are, hence Linux 6.8,
//!   and on an older kernel no mark is made. One file system mounted twice has two ids, each a stranger to the other's
//!   marks: the runs then take turns in reserving, and are as slow as if there were no marks.
//! - *A copy of the directory*, whose lines may never have been synced: its `NAME.commit` is another inode or on another
//!   device, so the mark in it is of another era. A ledger that was put back from an older copy says another `reserved`
//!   than the mark, unless nothing was reserved between; what protects then is the note in the lock, as ever.
//! - *A ledger that is put aside* is synced first, so the line that reserved survives in it until a later ledger, synced
//!   too, takes its place; the sums of the new one repeat it.
//! - *A sync fails.* Whoever is told so takes the mark away: lines that the kernel gave up on can go from memory too, in
//!   the same era. If nobody is told (the wrapper was killed as well), the lines would have to go from memory, and those
//!   of the lock file with them, before a fence is given again.
//!
//! Of file systems that are not known to be local there is no mark: a server can forget without telling its clients.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use rustix::fs::{AtFlags, StatxFlags};
use serde::{Deserialize, Serialize};

use super::Totals;
use crate::{
    error::{Error, Result},
    lock::{Fence, HeldFile},
    sealed,
};

/// How many fences are reserved at once.
const BLOCK: u64 = 64;

/// The size of the mark, in bytes: one that no page and no sector splits.
const SIZE: usize = 512;

/// `STATX_MNT_ID_UNIQUE`, Linux 6.8: asked for and answered by the same bit.
const UNIQUE_MOUNT: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// A time in which a file system forgets nothing that was written, unless a write to the disk fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Era {
    boot: String,
    mount: u64,
    /// What the mark lies in: a copy is something else.
    device: (u32, u32),
    inode: u64,
}

/// Up to which fence all are reserved, on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    format: u64,
    reserved: u64,
    #[serde(flatten)]
    era: Era,
}

/// The fences of a job, for one start.
#[derive(Debug)]
pub(crate) struct Fences {
    /// `None` when the kernel cannot tell.
    era: Option<Era>,
    mark: Option<Mark>,
}

/// A fence to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) fence: Fence,
    /// The line that gives it must be on disk before anybody is shown the fence.
    pub(crate) sync_first: bool,
    /// What that line reserves; 0 when it reserves nothing.
    pub(crate) reserve: u64,
    /// To be left when it is on disk.
    pub(super) mark: Option<Mark>,
}

impl Fences {
    /// What the held `NAME.commit` says. `boot`: the kernel's boot id, empty when it is not known.
    pub(super) fn read(commit: &HeldFile, path: &Path, boot: &str, is_local: bool) -> Result<Self> {
        let mut block = [0; SIZE];
        let bytes = commit.read(&mut block).map_err(|e| Error::io("read", path, e))?;
        let mark = Mark::decode(bytes).map_err(|found| Error::NewerFormat { path: path.to_owned(), found })?;
        let era = if is_local { Era::of(commit.file(), boot) } else { None };
        Ok(Self { era, mark })
    }

    /// The next one after those that the sums know, and after `noted`.
    pub(crate) fn next(&self, totals: &Totals, noted: Fence) -> Next {
        let follows = noted.0.max(totals.fence.saturating_add(1));
        let Some(era) = &self.era else {
            let fence = Fence(follows.max(totals.reserved.saturating_add(1)));
            return Next { fence, sync_first: true, reserve: 0, mark: None };
        };
        let counts = |mark: &Mark| mark.era == *era && mark.reserved == totals.reserved && follows <= mark.reserved;
        if self.mark.as_ref().is_some_and(counts) {
            return Next { fence: Fence(follows), sync_first: false, reserve: 0, mark: None };
        }
        let fence = follows.max(totals.reserved.saturating_add(1));
        let reserve = fence.saturating_add(BLOCK - 1);
        let mark = Mark { format: crate::FORMAT, reserved: reserve, era: era.clone() };
        Next { fence: Fence(fence), sync_first: true, reserve, mark: Some(mark) }
    }
}

impl Era {
    fn of(file: &File, boot: &str) -> Option<Self> {
        if boot.is_empty() {
            return None;
        }
        let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, UNIQUE_MOUNT | StatxFlags::INO).ok()?;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let era = Self { boot: boot.to_owned(), mount: stat.stx_mnt_id, device, inode: stat.stx_ino };
        StatxFlags::from_bits_retain(stat.stx_mask).contains(UNIQUE_MOUNT | StatxFlags::INO).then_some(era)
    }
}

impl Mark {
    /// One that cannot be read is none: its loss costs a sync. `Err` is the number of a newer format, whose file is not
    /// ours to write to.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, u64> {
        #[derive(Deserialize)]
        struct Format {
            format: u64,
        }
        let bytes = bytes.trim_ascii_end();
        if !sealed::is_intact(bytes) {
            return Ok(None);
        }
        match serde_json::from_slice::<Self>(bytes) {
            Ok(mark) if mark.format == crate::FORMAT => Ok(Some(mark)),
            _ => match serde_json::from_slice::<Format>(bytes) {
                Ok(Format { format }) if format > crate::FORMAT => Err(format),
                _ => Ok(None),
            },
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        sealed::sealed_block(self, SIZE)
    }

    /// Leaves it in `NAME.commit`. Needs no lock: whoever reads half of it reads none. An error means the same.
    pub(super) fn leave(&self, commit: &File) {
        let _ = commit.write_all_at(&self.encode(), 0);
    }

    /// Takes away whatever mark there is.
    pub(super) fn take_away(commit: &File) {
        let mut nothing = [b' '; SIZE];
        nothing[SIZE - 1] = b'\n';
        let _ = commit.write_all_at(&nothing, 0);
    }
}

#[cfg(test)]
impl Fences {
    pub(super) fn new(era: Option<Era>, mark: Option<Mark>) -> Self {
        Self { era, mark }
    }
}

#[cfg(test)]
impl Era {
    pub(super) fn new(boot: &str, mount: u64, inode: u64) -> Self {
        Self { boot: boot.to_owned(), mount, device: (8, 1), inode }
    }
}
