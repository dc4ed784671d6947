//! A file under exclusive flock, proven to be the file that its path means.
//!
//! The lock belongs to the inode, not to the path. If somebody replaced or removed the file while we waited, we would
//! hold a lock that no later process asks for, so after winning the descriptor's inode must still be the path's;
//! otherwise open again. That is also why no lock file is ever unlinked.

use std::{fs::File, marker::PhantomData, os::unix::fs::FileExt};

use super::{Until, flock, reentry};
use crate::{
    dir::{Access, Dir, FileId},
    error::{Error, Result},
};

/// What to do when there is no lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Create,
    GiveUp,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Taken {
    Held(HeldFile),
    /// Somebody else has it; this is the file, for reading who.
    Busy(File),
    Missing,
    /// This thread has it.
    Reentrant,
}

/// The lock is released on drop, explicitly: a child that inherited the descriptor does not keep it.
#[derive(Debug)]
pub(crate) struct HeldFile {
    /// `None` once it is released.
    file: Option<File>,
    id: FileId,
    _entry: reentry::Entry,
    /// Not `Send`: the entry names the thread.
    _thread: PhantomData<*const ()>,
}

impl HeldFile {
    /// `kept`: the file of an earlier acquisition, given back by [`HeldFile::release`]; nobody else has it.
    pub(crate) fn acquire(
        dir: &Dir,
        name: &str,
        missing: Missing,
        until: Until,
        mut kept: Option<(File, FileId)>,
    ) -> Result<Taken> {
        let failed = |e| Error::io("lock", dir.path_of(name), e);
        loop {
            let (file, id) = match kept.take() {
                Some(kept) => kept,
                None => match (dir.open(name, Access::ReadWrite)?, missing) {
                    (Some((file, stat)), _) => (file, stat.id),
                    (None, Missing::GiveUp) => return Ok(Taken::Missing),
                    (None, Missing::Create) => dir.open_or_create(name).map(|(file, stat)| (file, stat.id))?,
                },
            };
            if !flock::try_exclusive(&file).map_err(failed)? {
                if until == Until::Now {
                    return Ok(Taken::Busy(file));
                }
                if reentry::is_ours(&reentry::Key::File(id)) {
                    return Ok(Taken::Reentrant);
                }
                if !flock::exclusive(&file, until).map_err(failed)? {
                    return Ok(Taken::Busy(file));
                }
            }
            let held = Self::adopt(file, id);
            if held.is_the_paths(dir, name)? {
                return Ok(Taken::Held(held));
            }
        }
    }

    /// A file that another thread of ours locked for this one.
    pub(super) fn adopt(file: File, id: FileId) -> Self {
        Self { file: Some(file), id, _entry: reentry::Entry::new(reentry::Key::File(id)), _thread: PhantomData }
    }

    /// Whether the path still means the file that is locked.
    pub(crate) fn is_the_paths(&self, dir: &Dir, name: &str) -> Result<bool> {
        Ok(dir.stat(name)?.is_some_and(|stat| stat.links > 0 && stat.id == self.id))
    }

    pub(crate) fn file(&self) -> &File {
        self.file.as_ref().expect("it is there until it is released")
    }

    /// Closes the descriptor without releasing: whoever inherited it keeps the lock.
    pub(crate) fn abandon(mut self) {
        self.file = None;
    }

    /// Releases the lock and gives the file back, for the next acquisition. (Two holders must never share one: the
    /// kernel would take them for the same.)
    pub(crate) fn release(mut self) -> Option<(File, FileId)> {
        let file = self.file.take()?;
        flock::unlock(&file).ok()?;
        Some((file, self.id))
    }

    /// The first `buffer.len()` bytes, or as many as there are.
    pub(crate) fn read<'b>(&self, buffer: &'b mut [u8]) -> std::io::Result<&'b [u8]> {
        read_head(self.file(), buffer)
    }

    /// Overwrites in place, from the first byte.
    pub(crate) fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.file().write_all_at(bytes, 0)
    }

    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.file().sync_data()
    }
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Nothing to be done about an error: closing the descriptor releases it too.
            let _ = flock::unlock(file);
        }
    }
}

/// The first `buffer.len()` bytes of a file, or as many as there are.
pub(crate) fn read_head<'b>(file: &File, buffer: &'b mut [u8]) -> std::io::Result<&'b [u8]> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(&buffer[..filled])
}
