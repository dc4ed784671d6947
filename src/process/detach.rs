//! Leaving whoever started us: no terminal, no pipe, no descriptor of theirs.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read as _},
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

/// Tells whoever started processes that all of them have left it ([`detach`]), or are gone.
///
/// Until then they belong to its session: when that is a terminal's and its leader ends (`ssh -t HOST triplock …`), the
/// kernel sends HUP to all in the foreground, and it is the starter that is the leader.
pub(crate) struct Departure {
    heard: File,
    /// Every process that has not left has it.
    kept: OwnedFd,
}

impl Departure {
    pub(crate) fn new() -> io::Result<Self> {
        let (heard, kept) = pipe_with(PipeFlags::CLOEXEC)?;
        // Not standard input, output or error, whatever was closed when we were started.
        let kept = rustix::io::fcntl_dupfd_cloexec(kept, 3)?;
        Ok(Self { heard: heard.into(), kept })
    }

    /// What the processes are to inherit.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.kept.as_fd()
    }

    /// Sleeps until they have left.
    pub(crate) fn wait(self) {
        let Self { mut heard, kept } = self;
        drop(kept);
        // Nobody writes: this is its end. An error could only mean that it cannot be waited for.
        let _ = heard.read_to_end(&mut Vec::new());
    }
}

/// What a terminal sends to those in its foreground.
const BY_TERMINAL: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP];

/// While it lives, that is ignored: for a child of fork that is to leave, but has not yet. It costs less than to wait for it
/// as [`Departure`] does, and does not outlive an exec unnoticed, since such a child puts it back.
pub(crate) struct TerminalIgnored {
    before: [libc::sigaction; 4],
}

impl TerminalIgnored {
    pub(crate) fn begin() -> Self {
        let before = BY_TERMINAL.map(|signal| {
            // SAFETY: zero is a valid sigaction; the handler is set below.
            let mut before: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            // SAFETY: as above.
            let mut ignore: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            ignore.sa_sigaction = libc::SIG_IGN;
            // SAFETY: a valid signal and valid pointers.
            unsafe { libc::sigaction(signal, &raw const ignore, &raw mut before) };
            before
        });
        Self { before }
    }

    /// Puts back what was.
    pub(crate) fn end(&self) {
        for (signal, before) in BY_TERMINAL.iter().zip(&self.before) {
            // SAFETY: the action that was there before.
            unsafe { libc::sigaction(*signal, before, ptr::null_mut()) };
        }
    }
}

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

/// `close_range(2)`, or one by one where the kernel is older than 5.9.
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
