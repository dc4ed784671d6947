//! File locks: flock(2) on `NAME.lock`. They keep out every process of the machine, and are lost with the last open
//! descriptor: when the holder is killed, its lock is free the moment the kernel has closed its files.

use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    sync::Arc,
};

use super::{
    Acquire, Fence, Guard, Holder, Identity, Lock, LossMode, Wait,
    held_file::{self, HeldFile, Missing, Taken},
    holder::NOTE_SIZE,
    lane::Lane,
    reentry,
};
use crate::{
    clock::Clock,
    dir::{Access, Dir, FileId, StateDir},
    error::{Error, Result},
    name::Name,
};

/// The locks of one directory.
#[derive(Clone)]
pub struct FileLock {
    dir: Arc<Dir>,
    identity: Arc<Identity>,
    clock: Arc<dyn Clock>,
}

impl FileLock {
    /// The locks of the state directory's `locks/`, which is made when it is missing: named locks that guard nothing
    /// of triplock's own.
    pub fn named(state: &StateDir, identity: Identity, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self::in_dir(Arc::new(state.make_subdirectory("locks")?), Arc::new(identity), clock))
    }

    pub(crate) fn in_dir(dir: Arc<Dir>, identity: Arc<Identity>, clock: Arc<dyn Clock>) -> Self {
        Self { dir, identity, clock }
    }

    /// Whether this thread holds the lock of that name: waiting for it, or for somebody who waits for it, would never
    /// end.
    pub(crate) fn is_held_here(&self, name: &Name) -> Result<bool> {
        if !reentry::holds_any() {
            return Ok(false);
        }
        Ok(self.dir.stat(&format!("{name}.lock"))?.is_some_and(|stat| reentry::is_ours(&reentry::Key::File(stat.id))))
    }

    pub(crate) fn acquire_file(
        &self,
        name: &Name,
        missing: Missing,
        until: super::Until,
        kept: Option<(File, FileId)>,
    ) -> Result<Option<Acquire<FileGuard>>> {
        self.acquire_named_file(name, format!("{name}.lock"), missing, until, kept)
    }

    /// The same of a name that has several lock files: its slots.
    pub(crate) fn acquire_named_file(
        &self,
        name: &Name,
        file_name: String,
        missing: Missing,
        until: super::Until,
        kept: Option<(File, FileId)>,
    ) -> Result<Option<Acquire<FileGuard>>> {
        let held = match HeldFile::acquire(&self.dir, &file_name, missing, until, kept)? {
            Taken::Held(held) => held,
            Taken::Missing => return Ok(None),
            Taken::Reentrant => return Err(Error::Reentrant(name.clone())),
            Taken::Busy(file) => return Ok(Some(Acquire::Held(holder_in(&file)))),
        };
        self.guard(name, file_name, held).map(|guard| Some(Acquire::Granted(guard)))
    }

    /// The guard of a file that was locked, with its fence.
    pub(super) fn guard(&self, name: &Name, file_name: String, held: HeldFile) -> Result<FileGuard> {
        let failed = |operation, e| Error::io(operation, self.dir.path_of(&file_name), e);
        let mut note = [0; NOTE_SIZE];
        let last = Holder::decode(held.read(&mut note).map_err(|e| failed("read", e))?)
            .map_err(|found| Error::NewerFormat { path: self.dir.path_of(&file_name), found })?;
        let mut guard = FileGuard { lock: self.clone(), name: name.clone(), file_name, held, fence: Fence(0) };
        guard.raise_fence(last.map_or(Fence(0), |holder| holder.fence))?;
        Ok(guard)
    }

    /// The lane in front of that name's locks, if anybody ever waited in it.
    pub(crate) fn lane(&self, name: &Name) -> Result<Option<Lane>> {
        Lane::open(&self.dir, name.as_str())
    }

    /// The same, made when it is missing.
    pub(crate) fn make_lane(&self, name: &Name) -> Result<Lane> {
        Lane::make(&self.dir, name.as_str())
    }

    /// What the note of a lock says, whether it is held or not: a hint. `None` when there is no such file.
    pub(crate) fn note_of(&self, file_name: &str) -> Result<Option<(Option<Holder>, FileId)>> {
        let Some((file, stat)) = self.dir.open(file_name, Access::Read)? else { return Ok(None) };
        Ok(Some((holder_in(&file), stat.id)))
    }

    pub(crate) fn path_of(&self, file_name: &str) -> PathBuf {
        self.dir.path_of(file_name)
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }
}

/// A hint: one that cannot be read is none.
pub(crate) fn holder_in(file: &File) -> Option<Holder> {
    let mut note = [0; NOTE_SIZE];
    let note = held_file::read_head(file, &mut note).unwrap_or_default();
    Holder::decode(note).unwrap_or_default()
}

impl std::fmt::Debug for FileLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileLock").field("dir", &self.dir.path()).finish_non_exhaustive()
    }
}

impl Lock for FileLock {
    type Guard = FileGuard;

    fn acquire(&self, name: &Name, wait: Wait) -> Result<Acquire<FileGuard>> {
        let acquired = self.acquire_file(name, Missing::Create, wait.until(), None)?;
        Ok(acquired.expect("a missing lock file is created"))
    }

    fn loss_mode(&self) -> LossMode {
        LossMode::WithLastDescriptor
    }
}

/// A held file lock.
///
/// Its fence is in the lock file from the start, and survives kills there. A power cut may take the file's last
/// notes with it; a fence that some commit carried is in the ledger as well, and a caller that shows a fence to
/// another system before it commits anything calls [`FileGuard::persist_fence`] first.
#[derive(Debug)]
pub struct FileGuard {
    lock: FileLock,
    name: Name,
    file_name: String,
    held: HeldFile,
    fence: Fence,
}

impl FileGuard {
    /// The name whose lock this is.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Makes the fence larger than `seen`, a fence that was found elsewhere, and notes it.
    pub(crate) fn raise_fence(&mut self, seen: Fence) -> Result<()> {
        if self.fence > seen {
            return Ok(());
        }
        self.fence = Fence(seen.0 + 1);
        let holder = Holder::new(&self.lock.identity, self.lock.clock.now(), self.fence);
        let path = || self.lock.dir.path_of(&self.file_name);
        self.held.write(&holder.encode()).map_err(|e| Error::io("write", path(), e))
    }

    /// The lock file's descriptor: a process that inherits it shares the lock.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.held.file().as_fd()
    }

    /// The lock file's path.
    pub(crate) fn path(&self) -> PathBuf {
        self.lock.dir.path_of(&self.file_name)
    }

    /// Lets go without releasing: whoever inherited the descriptor keeps the lock.
    pub(crate) fn abandon(self) {
        self.held.abandon();
    }

    /// Releases the lock and gives its file back: see [`HeldFile::release`].
    pub(crate) fn release(self) -> Option<(File, FileId)> {
        self.held.release()
    }

    /// Returns when the fence would survive a power cut.
    pub fn persist_fence(&self) -> Result<()> {
        self.held.sync().map_err(|e| Error::io("sync", self.lock.dir.path_of(&self.file_name), e))
    }
}

impl Guard for FileGuard {
    fn fence(&self) -> Fence {
        self.fence
    }

    fn is_valid(&self) -> Result<bool> {
        self.held.is_the_paths(&self.lock.dir, &self.file_name)
    }
}
