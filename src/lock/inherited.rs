//! A descriptor that this process was started with and that its command line names by number: `flock 9`.
#![allow(unsafe_code)]

use std::{fs::File, io, mem::ManuallyDrop, ops::Deref, os::fd::FromRawFd as _};

/// It stays open when this is dropped: it belongs to whoever started us, and so does the lock.
#[derive(Debug)]
pub(crate) struct Inherited(ManuallyDrop<File>);

impl Inherited {
    /// # Errors
    /// `EBADF` when the number is no open descriptor.
    pub(crate) fn numbered(number: i32) -> io::Result<Self> {
        // SAFETY: F_GETFD takes no argument and changes nothing; a number that is no descriptor is an error.
        if number < 0 || unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: it is open, it is never closed here, and nothing that runs meanwhile closes a descriptor that it did
        // not open.
        Ok(Self(ManuallyDrop::new(unsafe { File::from_raw_fd(number) })))
    }
}

impl Deref for Inherited {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}
