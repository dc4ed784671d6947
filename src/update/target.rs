//! The file that is to be updated: which one it is, and whether it may be.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    hash::Hasher as _,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::{
    error::{Error, Result},
    name::Name,
};

/// No file system has longer names.
const LONGEST_NAME: usize = 255;

/// A file, named by its canonical path.
#[derive(Debug)]
pub(crate) struct Target {
    directory: OwnedFd,
    pub(super) name: OsString,
    path: PathBuf,
    lock: Name,
}

/// The content that an update starts from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: File,
    stat: Stat,
}

impl Target {
    /// Finds the directory; the file itself may be missing.
    pub(super) fn find(given: &Path) -> Result<Self> {
        // "dir/.." has no name, and "dir/" loses its slash to `file_name`.
        let trailing = given.as_os_str().as_bytes().ends_with(b"/");
        let name = given.file_name().filter(|_| !trailing).map(OsStr::to_owned);
        let Some(name) = name else {
            return Err(refused(given, "names no file; give the path of a regular file"));
        };
        let parent = match given.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = parent.canonicalize().map_err(|e| Error::io("find the directory of", given, e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(&parent, flags, Mode::empty()).map_err(|e| Error::io("open", parent.clone(), e))?;
        let path = parent.join(&name);
        let lock = lock_name(&path);
        Ok(Self { directory, name, path, lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What its lock is called.
    pub(super) fn lock_name(&self) -> &Name {
        &self.lock
    }

    /// What its successor is called until it takes its place.
    pub(super) fn fresh_name(&self) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(".triplock");
        if name.len() > LONGEST_NAME { format!(".{}.triplock", self.lock).into() } else { name }
    }

    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Opens it for reading. `None` when it is missing and `may_be_missing`.
    pub(super) fn open(&self, may_be_missing: bool) -> Result<Option<Source>> {
        // Before it is opened: to open a device may do things.
        let Some(stat) = self.stat()? else {
            if may_be_missing {
                return Ok(None);
            }
            return Err(refused(&self.path, "does not exist; insist with --create"));
        };
        self.judge(&stat)?;
        let failed = |operation, e: Errno| Error::io(operation, &self.path, e);
        // NONBLOCK in case it has become a fifo since; the filter is not to see it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty());
        let file = File::from(file.map_err(|e| failed("open", e))?);
        let stat = rustix::fs::fstat(&file).map_err(|e| failed("stat", e))?;
        self.judge(&stat)?;
        rustix::fs::fcntl_setfl(&file, OFlags::empty()).map_err(|e| failed("open", e))?;
        Ok(Some(Source { file, stat }))
    }

    fn judge(&self, stat: &Stat) -> Result<()> {
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_nlink > 1 => {
                return Err(refused(
                    &self.path,
                    &format!(
                        "has {} names (hard links), and only this one would be updated; copy it first",
                        stat.st_nlink
                    ),
                ));
            }
            FileType::RegularFile => return Ok(()),
            FileType::Symlink => "is a symbolic link, which the update would replace; name the file that it means",
            FileType::Directory => "is a directory; only a regular file can be updated",
            FileType::Fifo => "is a fifo; only a regular file can be updated",
            FileType::Socket => "is a socket; only a regular file can be updated",
            _ => "is a device; only a regular file can be updated",
        };
        Err(refused(&self.path, what))
    }

    fn stat(&self) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("stat", &self.path, errno)),
        }
    }

    /// Fails unless the path still means what was read.
    pub(super) fn is_still(&self, source: Option<&Source>) -> Result<()> {
        let now = self.stat()?;
        let same = match (&now, source) {
            (None, None) => true,
            (Some(now), Some(Source { stat: then, .. })) => {
                (now.st_dev, now.st_ino, now.st_size, now.st_mtime, now.st_mtime_nsec, now.st_nlink)
                    == (then.st_dev, then.st_ino, then.st_size, then.st_mtime, then.st_mtime_nsec, then.st_nlink)
            }
            _ => false,
        };
        if same {
            return Ok(());
        }
        Err(refused(
            &self.path,
            "was changed by somebody who does not use its lock while the filter ran; nothing was replaced, try again",
        ))
    }
}

/// A name of 128 bits. Whoever makes two paths meet on purpose makes two updates take turns, no more.
fn lock_name(path: &Path) -> Name {
    let mut hasher = SipHasher13::new();
    hasher.write(path.as_os_str().as_bytes());
    format!("{:032x}", hasher.finish128().as_u128()).parse().expect("hexadecimal digits are a name")
}

/// A file that cannot be updated as it is.
pub(super) fn refused(path: &Path, why: &str) -> Error {
    Error::Denied { path: path.to_owned(), why: why.to_owned() }
}

/// The same for an error that a library function gave.
pub(super) fn failed(operation: &'static str, path: &Path, e: impl Into<io::Error>) -> Error {
    Error::io(operation, path, e.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_lock_by_whatever_path() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("a")).unwrap();
        std::os::unix::fs::symlink(dir.join("a"), dir.join("link")).unwrap();
        let lock = |path: &str| Target::find(&dir.join(path)).unwrap().lock_name().clone();
        assert_eq!(lock("a/file"), lock("link/file"));
        assert_eq!(lock("a/file"), lock("a/../a/./file"));
        assert_ne!(lock("a/file"), lock("a/file2"));
        for nameless in ["", "/", "..", "a/..", "a/"] {
            assert!(Target::find(Path::new(nameless)).is_err(), "{nameless}");
        }
        // For ever the same, whichever triplock asks.
        assert_eq!(lock_name(Path::new("/srv/counter")).as_str(), "349072a5745c51ce18f3facce2252e28");
    }

    #[test]
    fn the_fresh_file_has_a_name_whatever_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = |name: &str| Target::find(&dir.path().join(name)).unwrap().fresh_name().into_string().unwrap();
        assert_eq!(fresh("counter"), ".counter.triplock");
        assert_eq!(fresh(&"x".repeat(245)).len(), 255);
        let long = fresh(&"x".repeat(246));
        assert!(long.len() < 60 && long.starts_with('.') && long.ends_with(".triplock"), "{long}");
    }
}
