//! Whether a file is open anywhere else, asked of the kernel by way of a lease.
#![allow(unsafe_code)]

use std::{fs::File, io, os::fd::AsRawFd as _};

/// Which signal tells of a broken lease (linux/fcntl.h; the same on every architecture that we support).
const F_SETSIG: libc::c_int = 10;

/// Who else on this machine has a file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Openers {
    /// Nobody.
    None,
    /// Somebody: a process, or a descriptor of this one that was opened by itself.
    Others,
    /// It cannot be told: the file is another user's, or the file system knows no leases.
    Unknown,
}

/// Who else has the file open.
///
/// The kernel grants a write lease (`fcntl(2)`, `F_SETLEASE`) when nobody has; it is given back at once.
///
/// Whoever opens the file just then breaks the lease, and the kernel tells its holder so by a signal. That would be
/// SIGIO, which ends a process; `F_SETSIG` makes it SIGURG, which by default does nothing.
pub(crate) fn other_openers(file: &File) -> Openers {
    let control = |command: libc::c_int, value: libc::c_int| {
        // SAFETY: a live descriptor, and commands that take an integer.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // The constants' types differ between C libraries.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let (write, none) = (libc::F_WRLCK as libc::c_int, libc::F_UNLCK as libc::c_int);
    let asked = control(F_SETSIG, libc::SIGURG)
        .and_then(|()| control(libc::F_SETLEASE, write))
        .and_then(|()| control(libc::F_SETLEASE, none));
    match asked {
        Ok(()) => Openers::None,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Openers::Others,
        Err(_) => Openers::Unknown,
    }
}

/// Whether nobody else on this machine has the file open, so that no reader can be halfway through it; `false` as
/// well where that cannot be told.
pub(crate) fn is_sole_opener(file: &File) -> bool {
    other_openers(file) == Openers::None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opener_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::create_new(&path).unwrap();
        assert!(is_sole_opener(&file));
        let reader = File::open(&path).unwrap();
        assert!(!is_sole_opener(&file));
        drop(reader);
        assert!(is_sole_opener(&file));
    }
}
