//! Starting many processes at one moment.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::sandbox::eventually;

/// Starts processes at the same moment: each waits, already running, for the gate's lock.
#[derive(Debug)]
pub(crate) struct Gate {
    path: PathBuf,
    holder: File,
}

impl Gate {
    pub(crate) fn closed(path: PathBuf) -> Self {
        Self { holder: exclusive(&path), path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many processes wait there.
    pub(crate) fn waiters(&self) -> usize {
        waiters(&self.holder)
    }

    /// Opens it when that many processes wait there.
    #[track_caller]
    pub(crate) fn open_for(self, processes: usize) {
        eventually("all processes wait at the gate", || waiters(&self.holder) == processes);
    }
}

/// How many processes sleep in flock(2) for that file, as the kernel tells.
pub(crate) fn waiters(file: &File) -> usize {
    let inode = format!(":{} ", file.metadata().expect("stat an open file").ino());
    let locks = fs::read_to_string("/proc/locks").expect("read /proc/locks");
    locks.lines().filter(|line| line.contains("-> FLOCK") && line.contains(&inode)).count()
}

/// Opens (or makes) the file and locks it exclusively.
// The tests play the foreign process, so they lock by themselves.
#[allow(clippy::disallowed_methods)]
pub(crate) fn exclusive(path: &Path) -> File {
    let file = fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    fs2::FileExt::lock_exclusive(&file).expect("flock");
    file
}
