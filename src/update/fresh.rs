//! The file that is to take the target's place.

use std::{
    ffi::OsString,
    fs::File,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::{
    attributes,
    target::{Source, Target, failed, refused},
};
use crate::{
    error::{Error, Result},
    lock::has_writers,
};

/// How long the filter's leftovers have to close its output: the far end of `sort | tee >(…)` ends a moment later than
/// the shell.
const GRACE: Duration = Duration::from_secs(1);

/// Removed again when it is dropped before it took the target's place.
#[derive(Debug)]
pub(super) struct Fresh<'t> {
    target: &'t Target,
    name: OsString,
    path: PathBuf,
    file: File,
    is_published: bool,
}

impl<'t> Fresh<'t> {
    /// Makes it; the caller holds the target's lock.
    pub(super) fn create(target: &'t Target) -> Result<Self> {
        let name = target.fresh_name();
        let path = target.path().with_file_name(&name);
        // Whatever the target's mode, nobody else reads half of it.
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(target.directory(), &name, flags, mode);
        let file = match make() {
            Err(Errno::EXIST) => {
                // A killed update left it.
                match rustix::fs::unlinkat(target.directory(), &name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(failed("remove", &path, errno)),
                }
                make()
            }
            other => other,
        };
        let file = File::from(file.map_err(|e| Error::cannot_create(&path, e))?);
        Ok(Self { target, name, path, file, is_published: false })
    }

    /// What the filter gets as its stdout.
    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Puts it in the target's place.
    pub(super) fn publish(mut self, source: Option<&Source>) -> Result<()> {
        self.close_for_writing()?;
        match source {
            Some(source) => self.inherit(source)?,
            None => {
                let mask = rustix::process::umask(Mode::empty());
                let mode = Mode::from_raw_mode(0o666).difference(mask);
                rustix::fs::fchmod(&self.file, mode).map_err(|e| failed("set the mode of", &self.path, e))?;
            }
        }
        rustix::fs::fsync(&self.file).map_err(|e| failed("write the whole of", &self.path, e))?;
        self.target.is_still(source)?;
        self.rename(source.is_none()).map_err(|e| failed("replace", self.target.path(), e))?;
        self.is_published = true;
        rustix::fs::fsync(self.target.directory()).map_err(|e| Error::Uncertain {
            request_id: None,
            why: format!(
                "{} was replaced, but its directory cannot be synced ({}): a power cut may bring the old content back",
                self.target.path().display(),
                std::io::Error::from(e)
            ),
        })
    }

    /// Gives up the right to write, and sees that nobody else has it: what is written after the rename would be in the
    /// file without having been updated.
    fn close_for_writing(&mut self) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let again = rustix::fs::openat(self.target.directory(), &self.name, flags, Mode::empty());
        let again = File::from(again.map_err(|e| failed("open", &self.path, e))?);
        let id = |file: &File| {
            let stat = rustix::fs::fstat(file).map_err(|e| failed("stat", &self.path, e))?;
            Ok::<_, Error>((stat.st_dev, stat.st_ino))
        };
        if id(&again)? != id(&self.file)? {
            return Err(refused(&self.path, "was replaced while the filter ran; find out by whom, then try again"));
        }
        self.file = again;
        let begun = Instant::now();
        while has_writers(&self.file) {
            if begun.elapsed() > GRACE {
                return Err(refused(
                    self.target.path(),
                    "not replaced: the filter ended, but a process that it started still has its output open; have it wait for all it starts",
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Owner, attributes and mode, as they are now: they may have been changed while the filter ran.
    fn inherit(&self, source: &Source) -> Result<()> {
        let path = self.target.path();
        let old = rustix::fs::fstat(&source.file).map_err(|e| failed("stat", path, e))?;
        let new = rustix::fs::fstat(&self.file).map_err(|e| failed("stat", &self.path, e))?;
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid) {
            let owner = rustix::fs::Uid::from_raw(old.st_uid);
            let group = rustix::fs::Gid::from_raw(old.st_gid);
            rustix::fs::fchown(&self.file, Some(owner), Some(group)).map_err(|errno| match errno {
                Errno::PERM => refused(
                    path,
                    &format!(
                        "belongs to user {} and group {}, which this user cannot keep; nothing was replaced, run as its owner or as root",
                        old.st_uid, old.st_gid
                    ),
                ),
                errno => failed("keep the owner of", path, errno),
            })?;
        }
        attributes::copy(&source.file, &self.file, path)?;
        // Last: a change of owner clears the set-id bits.
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(old.st_mode))
            .map_err(|e| failed("keep the mode of", path, e))
    }

    fn rename(&self, must_be_missing: bool) -> Result<(), Errno> {
        let directory = self.target.directory();
        if must_be_missing {
            match rustix::fs::renameat_with(directory, &self.name, directory, &self.target.name, RenameFlags::NOREPLACE)
            {
                // A file system that cannot; it was missing a moment ago.
                Err(Errno::INVAL | Errno::NOSYS) => {}
                renamed => return renamed,
            }
        }
        rustix::fs::renameat(directory, &self.name, directory, &self.target.name)
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if !self.is_published {
            // If it cannot be removed the next update does it.
            let _ = rustix::fs::unlinkat(self.target.directory(), &self.name, AtFlags::empty());
        }
    }
}
