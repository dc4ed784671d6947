//! Whether a file is open anywhere else, asked of the kernel by way of a lease.
#![allow(unsafe_code)]

use std::{fs::File, os::fd::AsRawFd as _};

/// Whether nobody else on this machine has the file open, so that no reader can be halfway through it.
///
/// The kernel grants a write lease (`fcntl(2)`, `F_SETLEASE`) on just that condition; it is given back at once. `false` as
/// well where it cannot tell: the file is another user's, or the file system knows no leases.
pub(crate) fn is_sole_opener(file: &File) -> bool {
    let lease = |kind: libc::c_int| {
        // SAFETY: a live descriptor, and a command that takes an integer.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) == 0 }
    };
    // The constants' types differ between C libraries.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let (write, none) = (libc::F_WRLCK as libc::c_int, libc::F_UNLCK as libc::c_int);
    lease(write) && lease(none)
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
