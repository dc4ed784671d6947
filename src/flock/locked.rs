//! What is locked: a file or directory by its path, or a descriptor that was inherited.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    ops::Deref,
    os::unix::ffi::OsStrExt as _,
    time::Instant,
};

use rustix::fs::{Access, Mode, OFlags};

use super::{
    arguments::{Operation, Wait},
    message::{self, Failure, words},
};
use crate::{
    lock::{
        Inherited, Until,
        flock::{self, Kind},
    },
    process::startup,
};

/// Open, not locked.
#[derive(Debug)]
pub(super) enum Opened {
    Inherited { file: Inherited, number: i32 },
    Named { file: File, path: OsString, flags: OFlags },
}

/// The lock was asked for and is had (or was let go, if that was asked for). It ends when the last process closes the
/// descriptor, never before: whoever inherited it keeps it.
#[derive(Debug)]
pub(super) struct Locked(#[allow(dead_code)] Opened);

/// There is no lock.
#[derive(Debug)]
pub(super) enum NotLocked {
    /// Somebody else has it.
    Held {
        /// It was waited for.
        timed_out: bool,
    },
    Failed(Failure),
}

impl Deref for Opened {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Self::Inherited { file, .. } => file,
            Self::Named { file, .. } => file,
        }
    }
}

impl Opened {
    pub(super) fn inherited(number: i32) -> Result<Self, Failure> {
        let file = match Inherited::numbered(number) {
            Ok(_) if startup::was_closed(number) => Err(io::Error::from_raw_os_error(libc::EBADF)),
            other => other,
        };
        match file {
            Ok(file) => Ok(Self::Inherited { file, number }),
            Err(e) => Err(not_lockable(number.to_string().as_bytes(), &e)),
        }
    }

    /// `close`: a command that is executed does not get the descriptor.
    pub(super) fn named(path: &OsStr, close: bool) -> Result<Self, Failure> {
        let close = if close { OFlags::CLOEXEC } else { OFlags::empty() };
        // For reading only, so that files can be locked that cannot be written to.
        let flags = OFlags::RDONLY | OFlags::NOCTTY | close;
        let mode = Mode::from_raw_mode(0o666);
        let opened = match rustix::fs::open(path, flags | OFlags::CREATE, mode) {
            // A directory cannot be asked to be made so.
            Err(rustix::io::Errno::ISDIR) => rustix::fs::open(path, flags, mode),
            other => other,
        };
        match opened {
            Ok(file) => Ok(Self::Named { file: file.into(), path: path.to_owned(), flags }),
            Err(errno) => {
                let code = match errno.raw_os_error() {
                    libc::ENOMEM | libc::EMFILE | libc::ENFILE => message::SYSTEM,
                    libc::EROFS | libc::ENOSPC => message::CANNOT_CREATE,
                    _ => message::NO_FILE,
                };
                Err(Failure::new(code, &[b"cannot open lock file ", path.as_bytes(), b": ", &words(&errno.into())]))
            }
        }
    }

    pub(super) fn lock(mut self, operation: Operation, until: Until) -> Result<Locked, NotLocked> {
        loop {
            match ask(&self, operation, until) {
                Ok(true) => return Ok(Locked(self)),
                Ok(false) => return Err(NotLocked::Held { timed_out: until != Until::Now }),
                Err(e) if self.open_for_writing(operation, &e) => {}
                Err(e) => {
                    let name = match &self {
                        Self::Inherited { number, .. } => number.to_string().into_bytes(),
                        Self::Named { path, .. } => path.as_bytes().to_vec(),
                    };
                    return Err(NotLocked::Failed(not_lockable(&name, &e)));
                }
            }
        }
    }

    /// NFS locks exclusively what is open for writing only (it makes record locks of them), and says EBADF or EIO
    /// otherwise. Whether to try again.
    fn open_for_writing(&mut self, operation: Operation, error: &io::Error) -> bool {
        let Self::Named { file, path, flags } = self else { return false };
        let refused = matches!(error.raw_os_error(), Some(libc::EBADF | libc::EIO));
        if !refused || operation == Operation::Shared || flags.contains(OFlags::RDWR) {
            return false;
        }
        let may_write = Access::READ_OK | Access::WRITE_OK;
        if rustix::fs::access(path.as_os_str(), may_write).is_err() {
            return false;
        }
        let writable = *flags | OFlags::RDWR;
        match rustix::fs::open(path.as_os_str(), writable, Mode::empty()) {
            Ok(again) => {
                *file = again.into();
                *flags = writable;
                true
            }
            Err(_) => false,
        }
    }
}

/// The moment at which the wait ends.
pub(super) fn until(wait: Wait) -> Result<Until, Failure> {
    match wait {
        Wait::No => Ok(Until::Now),
        Wait::For(wait) => Ok(Instant::now().checked_add(wait).map_or(Until::Never, Until::At)),
        Wait::Forever => Ok(Until::Never),
        Wait::Impossible => {
            let invalid = io::Error::from_raw_os_error(libc::EINVAL);
            Err(Failure::new(message::SYSTEM, &[b"cannot set up timer: ", &words(&invalid)]))
        }
    }
}

fn ask(file: &File, operation: Operation, until: Until) -> io::Result<bool> {
    let kind = match operation {
        Operation::Shared => Kind::Shared,
        Operation::Exclusive => Kind::Exclusive,
        Operation::Unlock => return flock::unlock(file).map(|()| true),
    };
    match until {
        Until::Now | Until::Never => flock::lock(file, kind, until),
        // The timer costs more than the lock, and is seldom needed.
        Until::At(_) => Ok(flock::try_lock(file, kind)? || flock::lock(file, kind, until)?),
    }
}

fn not_lockable(name: &[u8], error: &io::Error) -> Failure {
    let code = match error.raw_os_error() {
        Some(libc::ENOLCK | libc::ENOMEM) => message::SYSTEM,
        _ => message::BAD_DESCRIPTOR,
    };
    Failure::new(code, &[name, b": ", &words(error)])
}
