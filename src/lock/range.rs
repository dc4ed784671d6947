//! Locks on bytes of a file: "open file description" locks of fcntl(2), which [`super::lane`] makes tickets of.
//!
//! Like flock(2), and unlike the older record locks, they belong to the open file and not to the process: a child that
//! inherits the descriptor shares them, they end with the last descriptor, and closing another descriptor of the same
//! file gives nothing up. A byte need not exist to be locked.
#![allow(unsafe_code)]

use std::{fs::File, io, ops::Range, os::fd::AsRawFd as _};

use super::{Until, sleep::sleep_in};

/// Locks one byte for us alone, if nobody has it.
pub(super) fn try_lock(file: &File, byte: u64) -> io::Result<bool> {
    match call(file, libc::F_OFD_SETLK, libc::F_WRLCK, byte..byte + 1) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Gives a byte back.
pub(super) fn unlock(file: &File, byte: u64) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, libc::F_UNLCK, byte..byte + 1).map(drop)
}

/// The first byte of some lock that another open file has in the range; takes none.
pub(super) fn locked(file: &File, range: Range<u64>) -> io::Result<Option<u64>> {
    if range.is_empty() {
        return Ok(None);
    }
    let start = range.start;
    let found = call(file, libc::F_OFD_GETLK, libc::F_RDLCK, range)?;
    let first = u64::try_from(found.l_start).unwrap_or_default();
    Ok((i32::from(found.l_type) != libc::F_UNLCK).then_some(first.max(start)))
}

/// Sleeps until nobody else has the byte, and leaves it to nobody; `false` when the wait was over first.
///
/// # Errors
/// As [`sleep_in`].
pub(super) fn wait_for(file: &File, byte: u64, until: Until) -> io::Result<bool> {
    // Shared: any number may wait for one, and are let go together.
    let is_free = sleep_in(until, || call(file, libc::F_OFD_SETLKW, libc::F_RDLCK, byte..byte + 1).map(drop))?;
    if is_free {
        unlock(file, byte)?;
    }
    Ok(is_free)
}

/// fcntl(2) about that lock: what the kernel made of it.
fn call(file: &File, operation: libc::c_int, kind: libc::c_int, range: Range<u64>) -> io::Result<libc::flock> {
    let too_far = |_| io::Error::from(io::ErrorKind::InvalidInput);
    // SAFETY: zero is a valid flock; an l_pid of 0 is what these operations ask for.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).map_err(too_far)?;
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).map_err(too_far)?;
    lock.l_start = libc::off_t::try_from(range.start).map_err(too_far)?;
    lock.l_len = libc::off_t::try_from(range.end - range.start).map_err(too_far)?;
    // SAFETY: an open descriptor, and a lock that is ours to read and write.
    match unsafe { libc::fcntl(file.as_raw_fd(), operation, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock),
    }
}
