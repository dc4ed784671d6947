//! Sleeping until something changes in a file or a directory: inotify(7), for one thing at a time.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

/// Becomes readable when that changes.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// # Errors
    /// There is none to be had (a user has 128 instances), or nothing of that name.
    pub(crate) fn of(path: &Path, events: WatchFlags) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, path, events)?;
        Ok(Self(fd))
    }

    /// Takes what it has to tell; whether there was anything.
    pub(crate) fn drain(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = Reader::new(&self.0, &mut buffer);
        // Equal events that follow each other are one, so there is one.
        events.next().is_ok()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
