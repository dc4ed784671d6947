//! A process that we started, and how it ended.
#![allow(unsafe_code)]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

/// A process that we started. Dropping it neither ends it nor waits for it.
#[derive(Debug)]
pub(crate) struct Child {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// Whether it runs in the control group that [`super::Spawn`] named; a kernel may refuse to move it.
    pub(super) in_cgroup: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    Exited(u8),
    /// By that signal.
    Killed(i32),
}

/// What a process and those descendants that were waited for have used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// Bytes, of the largest of them. Never less than our own peak when it was started: until `execve` it used our
    /// memory, and the kernel counts that.
    pub(crate) peak_memory: u64,
}

/// A process that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) status: Status,
    pub(crate) usage: Usage,
}

impl Child {
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sleeps until it has ended. To be called once.
    #[cfg(test)]
    pub(crate) fn wait(&self) -> io::Result<Ended> {
        wait(self.pid)
    }
}

/// Readable once the process has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Sleeps until that child has ended.
pub(super) fn wait(pid: Pid) -> io::Result<Ended> {
    let ended = wait4(pid.as_raw_nonzero().get(), 0)?;
    ended.map(|(_, ended)| ended).ok_or_else(|| io::ErrorKind::Interrupted.into())
}

/// wait4(2): the pid of a child that has ended, and how; `None` when `WNOHANG` was asked for and none has.
pub(super) fn wait4(pid: libc::pid_t, options: libc::c_int) -> io::Result<Option<(libc::pid_t, Ended)>> {
    loop {
        let mut status = 0;
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: both pointers are valid for writing; zero is a valid rusage.
        let (pid, usage) = unsafe {
            let pid = libc::wait4(pid, &raw mut status, options, usage.as_mut_ptr());
            (pid, usage.assume_init())
        };
        match pid {
            0 => return Ok(None),
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            pid => return Ok(Some((pid, Ended { status: status_of(status), usage: usage_of(&usage) }))),
        }
    }
}

fn status_of(status: libc::c_int) -> Status {
    if libc::WIFSIGNALED(status) {
        return Status::Killed(libc::WTERMSIG(status));
    }
    // The kernel keeps eight bits of what the process said.
    Status::Exited(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
}

fn usage_of(usage: &libc::rusage) -> Usage {
    Usage {
        user: duration(&usage.ru_utime),
        system: duration(&usage.ru_stime),
        peak_memory: u64::try_from(usage.ru_maxrss).unwrap_or_default().saturating_mul(1024),
    }
}

fn duration(time: &libc::timeval) -> Duration {
    let micros = u64::try_from(time.tv_usec).unwrap_or_default();
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default()) + Duration::from_micros(micros)
}
