//! A directory that triplock owns, and the only ways in which it opens, makes and replaces files there.
//!
//! Every open is `O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK` and must yield a regular file, so that a planted symbolic link
//! or fifo is refused instead of followed or waited for. Nothing is ever opened with `O_TRUNC`.

mod file_system;
mod root;
mod watch;

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

pub use root::{Environment, StateDir};
pub(crate) use watch::Watch;

use crate::error::{Error, Result};

/// Which inode a descriptor or a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// What `fstat` says of an open file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) id: FileId,
    pub(crate) size: u64,
    /// Names that mean the inode; 0 once the last is gone.
    pub(crate) links: u64,
}

// The fields' types differ between architectures.
#[allow(clippy::useless_conversion, clippy::cast_sign_loss, clippy::unnecessary_cast)]
fn stat_of(stat: &rustix::fs::Stat) -> Stat {
    Stat {
        id: FileId { device: u64::from(stat.st_dev), inode: u64::from(stat.st_ino) },
        size: stat.st_size as u64,
        links: stat.st_nlink as u64,
    }
}

/// `fstat` of an open file.
pub(crate) fn stat_file(file: &File) -> io::Result<Stat> {
    Ok(stat_of(&rustix::fs::fstat(file)?))
}

/// An open directory; files in it are named by their last component.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    /// 0600, or 0660 in a directory that a group shares.
    file_mode: Mode,
    /// On a file system that is known to forget nothing while it is mounted.
    is_local: bool,
}

/// The mode of a directory that a group shares: what is made in it belongs to the group.
const SHARED: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::SGID);

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

impl Access {
    fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::ReadWrite => OFlags::RDWR,
        }
    }
}

impl Dir {
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_local(&self) -> bool {
        self.is_local
    }

    fn at(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&self.fd, name, flags, self.file_mode).map(File::from)
    }

    /// Opens a file that is there, or says that none is.
    pub(crate) fn open(&self, name: &str, access: Access) -> Result<Option<(File, Stat)>> {
        match self.at(name, access.flags()) {
            Ok(file) => self.regular(name, file).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.open_error("open", name, errno)),
        }
    }

    /// Opens a file, making it first when there is none.
    ///
    /// `O_CREAT` is asked for only when the file is missing: with `fs.protected_regular` the kernel refuses it on
    /// somebody else's existing file in a sticky directory.
    pub(crate) fn open_or_create(&self, name: &str) -> Result<(File, Stat)> {
        loop {
            if let Some(found) = self.open(name, Access::ReadWrite)? {
                return Ok(found);
            }
            match self.made(|| self.at(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)) {
                Ok(file) => return self.regular(name, file),
                Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(Error::cannot_create(self.path_of(name), errno));
                }
            }
        }
    }

    /// Makes a file afresh; one of that name that a killed process left behind is removed first. The caller holds
    /// the lock that guards the name.
    ///
    /// So nobody else opens it before it has its mode, and the umask, which other threads of the process have too, can stay
    /// as it is at each of these, one a commit.
    pub(crate) fn create_fresh(&self, name: &str) -> Result<File> {
        for _ in 0..2 {
            match self.at(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL) {
                Ok(file) => return self.regular(name, file).map(|(file, _)| file),
                Err(Errno::EXIST) => self.unlink(name)?,
                Err(errno) => {
                    return Err(Error::cannot_create(self.path_of(name), errno));
                }
            }
        }
        Err(Error::cannot_create(self.path_of(name), io::ErrorKind::AlreadyExists))
    }

    /// Makes a file that is only ever appended to, or says that one of that name is there.
    ///
    /// Its descriptor is for others to write to, so it has none of the flags that only an unknown file needs.
    pub(crate) fn create_to_append(&self, name: &str) -> Result<Option<File>> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        match self.made(|| rustix::fs::openat(&self.fd, name, flags, self.file_mode)).map(File::from) {
            Ok(file) if self.is_shared() => self.regular(name, file).map(|(file, _)| Some(file)),
            Ok(file) => Ok(Some(file)),
            Err(Errno::EXIST) => Ok(None),
            Err(errno) => Err(Error::cannot_create(self.path_of(name), errno)),
        }
    }

    /// Makes such a file without a name, which goes when its last descriptor does; `None` where the file system has none.
    pub(crate) fn create_unnamed_to_append(&self) -> Option<File> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::TMPFILE | OFlags::CLOEXEC;
        self.made(|| rustix::fs::openat(&self.fd, ".", flags, self.file_mode)).map(File::from).ok()
    }

    /// Gives it its name, and opens it by that: the kernel calls the descriptor that made it `#123 (deleted)` for ever, and
    /// so do those who watch the directory. `None` when one of that name is there, or it cannot have one (there is no /proc).
    pub(crate) fn give_name(&self, unnamed: &File, name: &str) -> Option<File> {
        let by_descriptor = format!("/proc/self/fd/{}", unnamed.as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, by_descriptor, &self.fd, name, AtFlags::SYMLINK_FOLLOW).ok()?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let named = File::from(rustix::fs::openat(&self.fd, name, flags, Mode::empty()).ok()?);
        let ids = [unnamed, &named].map(|file| stat_file(file).map(|stat| stat.id).ok());
        (ids[0].is_some() && ids[0] == ids[1]).then_some(named)
    }

    /// Makes a file afresh that is for its maker alone, whoever shares the directory; one of that name that a killed process
    /// left behind is removed first. The caller holds the lock that guards the name.
    pub(crate) fn create_private(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..2 {
            match rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    // Whatever the umask took away.
                    let mode = rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR);
                    mode.map_err(|e| Error::io("set the mode of", self.path_of(name), e))?;
                    return Ok(File::from(fd));
                }
                Err(Errno::EXIST) => self.unlink(name)?,
                Err(errno) => return Err(Error::cannot_create(self.path_of(name), errno)),
            }
        }
        Err(Error::cannot_create(self.path_of(name), io::ErrorKind::AlreadyExists))
    }

    /// Opens such a file, and says whose it is: the number of its maker, which nobody but root can forge. `None`
    /// when there is none.
    pub(crate) fn open_private(&self, name: &str, access: Access) -> Result<Option<(File, u32)>> {
        let failed = |errno| self.open_error("open", name, errno);
        match self.at(name, access.flags()) {
            Ok(file) => {
                let stat = rustix::fs::fstat(&file).map_err(failed)?;
                match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
                    rustix::fs::FileType::RegularFile => Ok(Some((file, stat.st_uid))),
                    kind => Err(Error::NotRegular { path: self.path_of(name), kind: kind_word(kind) }),
                }
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Whose a file is, without opening it; `None` when there is none.
    pub(crate) fn owner(&self, name: &str) -> Result<Option<u32>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_uid)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("stat", self.path_of(name), errno)),
        }
    }

    /// Moves a file to another directory.
    pub(crate) fn move_to(&self, name: &str, other: &Self, to: &str) -> Result<()> {
        rustix::fs::renameat(&self.fd, name, &other.fd, to)
            .map_err(|errno| Error::io("move a file to", other.path_of(to), errno))
    }

    /// A directory of ours inside, or `None` when it is missing.
    pub(crate) fn subdirectory(&self, name: &str) -> Result<Option<Self>> {
        let path = self.path_of(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io("stat", &path, e))?;
                let lacks = !Mode::from_raw_mode(stat.st_mode).contains(Mode::RWXG);
                if lacks && self.is_shared() && stat.st_uid == rustix::process::geteuid().as_raw() {
                    rustix::fs::fchmod(&fd, SHARED).map_err(|e| Error::io("set the mode of", &path, e))?;
                }
                Ok(Some(Self { fd, path, file_mode: self.file_mode, is_local: self.is_local }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(Error::NotRegular { path, kind: "file or link where a directory belongs" })
            }
            Err(errno) => Err(Error::io("open", path, errno)),
        }
    }

    /// The same, made (and its entry synced) when it is missing.
    pub(crate) fn make_subdirectory(&self, name: &str) -> Result<Self> {
        if let Some(dir) = self.subdirectory(name)? {
            return Ok(dir);
        }
        let path = self.path_of(name);
        // The set-group-id bit comes from the parent. To ask for it, here or by a chmod after it, is refused under
        // systemd's RestrictSUIDSGID=.
        let mode = if self.is_shared() { SHARED - Mode::SGID } else { Mode::RWXU };
        match self.made(|| rustix::fs::mkdirat(&self.fd, name, mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::cannot_create(path, errno)),
        }
        self.sync()?;
        self.subdirectory(name)?.ok_or_else(|| Error::cannot_create(path, io::ErrorKind::NotFound))
    }

    /// Makes something here, with its mode in one step with its name: between the two another user of the group would
    /// find it and be refused.
    ///
    /// The umask is the whole process's, and the one of a job's command, so it is taken away for that moment only.
    fn made<T>(&self, make: impl FnOnce() -> T) -> T {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        if !self.is_shared() {
            return make();
        }
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let before = rustix::process::umask(Mode::empty());
        let done = make();
        rustix::process::umask(before);
        done
    }

    /// Whether a group shares the directory: then the umask must not take the group's bits away.
    pub(crate) fn is_shared(&self) -> bool {
        self.file_mode.contains(Mode::WGRP)
    }

    fn regular(&self, name: &str, file: File) -> Result<(File, Stat)> {
        let stat = rustix::fs::fstat(&file).map_err(|e| Error::io("stat", self.path_of(name), e))?;
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::RegularFile => {
                // A process of ours may have been killed before it gave the file its mode.
                let lacks = !Mode::from_raw_mode(stat.st_mode).contains(self.file_mode);
                if lacks && self.is_shared() && stat.st_uid == rustix::process::geteuid().as_raw() {
                    rustix::fs::fchmod(&file, self.file_mode)
                        .map_err(|e| Error::io("set the mode of", self.path_of(name), e))?;
                }
                Ok((file, stat_of(&stat)))
            }
            kind => Err(Error::NotRegular { path: self.path_of(name), kind: kind_word(kind) }),
        }
    }

    fn open_error(&self, operation: &'static str, name: &str, errno: Errno) -> Error {
        let path = self.path_of(name);
        match errno {
            Errno::LOOP => Error::NotRegular { path, kind: "symbolic link" },
            Errno::ISDIR => Error::NotRegular { path, kind: "directory" },
            Errno::NXIO => Error::NotRegular { path, kind: "socket" },
            _ => Error::io(operation, path, errno),
        }
    }

    /// What the path means now, without following a link.
    pub(crate) fn stat(&self, name: &str) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat_of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("stat", self.path_of(name), errno)),
        }
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        rustix::fs::renameat(&self.fd, from, &self.fd, to)
            .map_err(|e| Error::io("rename a new file over", self.path_of(to), e))
    }

    /// Swaps two files in one step, or falls back to renaming where there is nothing to swap with or the file system
    /// cannot swap. A swap costs two thirds of a rename over an existing file, which must free the old inode.
    pub(crate) fn exchange_or_rename(&self, fresh: &str, target: &str) -> Result<()> {
        match rustix::fs::renameat_with(&self.fd, fresh, &self.fd, target, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.rename(fresh, target),
            Err(errno) => Err(Error::io("publish", self.path_of(target), errno)),
        }
    }

    /// Removes a file; that there was none is fine.
    pub(crate) fn unlink(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.open_error("remove", name, errno)),
        }
    }

    /// Makes renames in this directory survive a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).map_err(|e| Error::io("sync", &self.path, e))
    }

    /// The names of the files here, in byte order.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let failed = |e: Errno| Error::io("list", &self.path, e);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

fn kind_word(kind: rustix::fs::FileType) -> &'static str {
    match kind {
        rustix::fs::FileType::Directory => "directory",
        rustix::fs::FileType::Symlink => "symbolic link",
        rustix::fs::FileType::Fifo => "fifo",
        rustix::fs::FileType::Socket => "socket",
        rustix::fs::FileType::CharacterDevice | rustix::fs::FileType::BlockDevice => "device",
        _ => "special file",
    }
}

#[cfg(test)]
mod tests;
