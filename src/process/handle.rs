//! A descriptor that means one process for ever.
//!
//! A pid is used again after its process is gone; a pidfd (`pidfd_open(2)`) is not. Between learning a pid and opening
//! its pidfd the process may have been replaced by another of that number, so its start time is compared after the
//! opening: the same pid with the same start is the same process, and the descriptor was opened in between.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    ptr,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    process::{Pid, PidfdFlags, Signal},
};

use super::{
    table::{ProcessInfo, info},
    wait_for,
};

/// One process, and no later one of its number.
#[derive(Debug)]
pub(crate) struct Handle {
    process: ProcessInfo,
    pidfd: OwnedFd,
}

impl Handle {
    /// The process that has that number now; `None` when there is none.
    ///
    /// # Errors
    /// When there may be one, and no descriptor of it is to be had.
    pub(crate) fn open(pid: u32) -> io::Result<Option<Self>> {
        match info(pid) {
            Some(process) => Self::open_known(process),
            None => Ok(None),
        }
    }

    /// The process that was looked at before; `None` when it is gone.
    pub(crate) fn open_known(process: ProcessInfo) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let is_same = info(process.pid).is_some_and(|now| now.start_ticks == process.start_ticks);
        Ok(is_same.then_some(Self { process, pidfd }))
    }

    /// What was known of it when this was opened.
    pub(crate) fn process(&self) -> &ProcessInfo {
        &self.process
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Sends it a signal; to one that is over that means nothing.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.send(signal.as_raw()).map(drop)
    }

    /// Sends it a signal; `false` when it has been buried already.
    pub(super) fn send(&self, signal: i32) -> io::Result<bool> {
        send(self.pidfd.as_fd(), signal)
    }

    /// Whether it runs no more.
    pub(crate) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        wait_for(&mut fds, Some(Duration::ZERO)).is_ok_and(|ready| ready > 0)
    }
}

/// Readable once it has ended.
impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// `pidfd_send_signal(2)`, for any signal number; `false` when the process has been buried already.
pub(super) fn send(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<bool> {
    // SAFETY: a live descriptor and integers; null asks for what kill(2) would tell.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, ptr::null::<libc::siginfo_t>(), 0)
    };
    match sent {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            error => Err(error),
        },
    }
}

/// kill(2) of a whole group, for any signal number. Its leader must not be buried yet: that reserves the number. A group
/// in which nobody may be signalled is no error.
pub(super) fn send_group(leader: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: integers only. The pid is positive and not 1's, being that of a child of ours.
    if unsafe { libc::kill(-leader.as_raw_nonzero().get(), signal) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EPERM)) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::Command};

    use super::*;

    #[test]
    fn it_is_signalled_heard_of_and_not_mistaken() {
        let mut child = Command::new("sleep").arg("97").spawn().unwrap();
        let handle = Handle::open(child.id()).unwrap().unwrap();
        assert_eq!(handle.process().pid, child.id());
        assert!(!handle.has_ended());
        let mut another = handle.process().clone();
        another.start_ticks -= 1;
        assert!(Handle::open_known(another).unwrap().is_none(), "an earlier one of that number");
        handle.signal(Signal::TERM).unwrap();
        wait_for(&mut [PollFd::new(&handle, PollFlags::IN)], None).unwrap();
        assert!(handle.has_ended());
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert!(!handle.send(libc::SIGTERM).unwrap(), "buried");
        handle.signal(Signal::TERM).unwrap();
        assert!(Handle::open(u32::MAX).unwrap().is_none());
    }
}
