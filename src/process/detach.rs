//! Leaving whoever started us: no terminal, no pipe, no descriptor of theirs.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

/// Becomes the leader of a new session, with /dev/null for standard input, output and error, and with no other descriptor
/// than that one.
///
/// A caller that reads our output to its end (`$(triplock …)`, ssh) would wait for a descriptor that we kept; and a job that
/// queues another hands down its lock, which the other would wait for. So all of them are closed, whoever opened
/// them. To be called while nothing of ours has one that it will use or close again.
pub(crate) fn detach(keep: BorrowedFd<'_>) -> io::Result<()> {
    // A group's leader cannot; it is one when nobody forked before, and then a session of its own is not needed to lose
    // what a shell would send to the group.
    match rustix::process::setsid() {
        Ok(_) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    drop(null);
    let keep = keep.as_raw_fd().unsigned_abs();
    for (first, last) in [(3, keep.saturating_sub(1)), (keep.max(2) + 1, u32::MAX)] {
        if first <= last {
            close_range(first, last)?;
        }
    }
    Ok(())
}

/// close_range(2), or one by one where the kernel is older than 5.9.
fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: integers only; nobody uses those descriptors any more (see `detach`).
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return Ok(());
    }
    let open: Vec<u32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| (first..=last).contains(fd))
        .collect();
    for fd in open {
        // SAFETY: as above; the listing's own is closed already, and closing it again does nothing.
        unsafe { libc::close(i32::try_from(fd).unwrap_or(-1)) };
    }
    Ok(())
}
