//! Whether a file is open anywhere else, asked of the kernel by way of a lease.
#![allow(unsafe_code)]

use std::{fs::File, os::fd::AsRawFd as _};

/// Which signal tells of a broken lease (linux/fcntl.h; the same on every architecture that we support).
const F_SETSIG: libc::c_int = 10;

/// Whether nobody else on this machine has the file open, so that no reader can be halfway through it.
///
/// The kernel grants a write lease (`fcntl(2)`, `F_SETLEASE`) on just that condition; it is given back at once. `false` as
/// well where it cannot tell: the file is another user's, or the file system knows no leases.
///
/// Whoever opens the file just then breaks the lease, and the kernel tells its holder so by a signal. That would be
/// SIGIO, which ends a process; `F_SETSIG` makes it SIGURG, which by default does nothing.
pub(crate) fn is_sole_opener(file: &File) -> bool {
    let control = |command: libc::c_int, value: libc::c_int| {
        // SAFETY: a live descriptor, and commands that take an integer.
        unsafe { libc::fcntl(file.as_raw_fd(), command, value) == 0 }
    };
    // The constants' types differ between C libraries.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let (write, none) = (libc::F_WRLCK as libc::c_int, libc::F_UNLCK as libc::c_int);
    control(F_SETSIG, libc::SIGURG) && control(libc::F_SETLEASE, write) && control(libc::F_SETLEASE, none)
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
