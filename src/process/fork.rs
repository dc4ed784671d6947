//! A child that goes on in this program, with a copy of all that we have: what a guardian is.
//!
//! [`super::Spawn`] starts other programs, and starts them cheaper. A guardian must not depend on finding and loading a
//! program when it is needed, and shares what is in memory already: a copy of the page tables is all that it costs.
#![allow(unsafe_code)]

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use rustix::process::{Pid, PidfdFlags};

use super::child::Child;

/// What a child that panicked says to its parent: as main does.
const PANICKED: i32 = 70;

/// Starts a child that does `work` and ends. Its end is no end of the program: nothing is flushed or dropped but what
/// `work` owns.
///
/// To be called while this process has no other thread of ours: of a copy's threads only the calling one goes on, and what
/// another had locked would stay locked in it.
pub(crate) fn fork(work: impl FnOnce()) -> io::Result<Child> {
    // SAFETY: no other thread of ours exists (see above), so no lock of ours is held by one; the allocator's are taken care of
    // by fork itself in glibc, and a single thread cannot be amid an allocation here. The child never returns from this
    // block.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let done = catch_unwind(AssertUnwindSafe(work));
            // SAFETY: ends the process at once; what the parent has registered for its own end is not run twice.
            unsafe { libc::_exit(if done.is_ok() { 0 } else { PANICKED }) }
        }
        raw => {
            let pid = Pid::from_raw(raw).ok_or_else(|| io::Error::other("fork gave no process id"))?;
            // Ours and not waited for: the number means it.
            match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => Ok(Child { pid, pidfd, in_cgroup: false }),
                Err(e) => {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    let _ = super::child::wait(pid);
                    Err(e.into())
                }
            }
        }
    }
}
