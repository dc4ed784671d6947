//! Signals as something to read: blocked, and taken from a signalfd(2) by the loop that also watches the job.
//!
//! A handler could not do this work: it may run between the loop's look and its sleep, and the signal would be noticed at
//! the next event, which may never come.
//!
//! A signal that our caller ignores (nohup's HUP) must stay ignored, and a blocked signal is queued even when it is
//! ignored. Asking for nine dispositions at every start would cost nine system calls, so the one disposition is asked for
//! when a signal has come.
#![allow(unsafe_code)]

use std::{
    io,
    mem::{self, MaybeUninit},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

/// What a supervisor wants to hear of: what it passes on, the end of a child, and the terminal's stop and go.
const TAKEN: [libc::c_int; 9] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCHLD,
    libc::SIGTSTP,
    libc::SIGCONT,
];

/// Which signals a thread holds back.
#[derive(Clone, Copy)]
pub(crate) struct Mask(pub(super) libc::sigset_t);

impl Mask {
    fn of(signals: &[libc::c_int]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set that sigaddset then changes.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), *signal);
            }
            Self(set.assume_init())
        }
    }

    pub(super) fn all() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the set.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }

    /// Makes it this thread's mask as `how` says (`SIG_BLOCK`, `SIG_SETMASK` …), and gives the one before.
    pub(super) fn apply(&self, how: libc::c_int) -> io::Result<Self> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: a valid set; `before` is written when the call succeeds.
        match unsafe { libc::pthread_sigmask(how, &raw const self.0, before.as_mut_ptr()) } {
            // SAFETY: it succeeded.
            0 => Ok(Self(unsafe { before.assume_init() })),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // SAFETY: an initialised set and valid signal numbers.
        let held =
            (1..=libc::SIGRTMAX()).filter(|signal| unsafe { libc::sigismember(&raw const self.0, *signal) } == 1);
        f.debug_list().entries(held).finish()
    }
}

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) signal: i32,
    /// The kernel sent it: a key on the terminal, which the job has heard too when it shares the foreground.
    pub(crate) from_kernel: bool,
    /// Who sent it, if it was a process of this pid namespace.
    pub(crate) sender: Option<u32>,
}

/// While it lives, TERM INT HUP QUIT USR1 USR2 CHLD TSTP CONT are held back from this thread, to be read here.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: OwnedFd,
    before: Mask,
}

impl Signals {
    pub(crate) fn take() -> io::Result<Self> {
        let taken = Mask::of(&TAKEN);
        let before = taken.apply(libc::SIG_BLOCK)?;
        // SAFETY: -1 asks for a new descriptor; the set is valid.
        let fd = unsafe { libc::signalfd(-1, &raw const taken.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            before.apply(libc::SIG_SETMASK)?;
            return Err(error);
        }
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, before })
    }

    /// The mask that was there before: the one that a child shall have.
    pub(crate) fn before(&self) -> &Mask {
        &self.before
    }

    /// The next signal, if one has come. Never sleeps.
    pub(crate) fn read(&self) -> Option<Received> {
        loop {
            let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
            let size = mem::size_of::<libc::signalfd_siginfo>();
            // SAFETY: a live descriptor and that many bytes to write to; every bit pattern is a valid value.
            let (read, info) = unsafe {
                let read = libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size);
                (read, info.assume_init())
            };
            if usize::try_from(read) != Ok(size) {
                // Nothing there. (An interruption is none either: the loop around this comes again.)
                return None;
            }
            let signal = i32::try_from(info.ssi_signo).unwrap_or_default();
            if signal == libc::SIGCHLD || !is_ignored(signal) {
                let sender = Some(info.ssi_pid).filter(|pid| *pid != 0);
                return Some(Received { signal, from_kernel: info.ssi_code == libc::SI_KERNEL, sender });
            }
        }
    }
}

/// Readable when a signal has come.
impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // It was this thread's mask, so the kernel takes it again. One that is still pending then does what it would
        // have done without us.
        let _ = self.before.apply(libc::SIG_SETMASK);
    }
}

/// Whether TERM, INT or QUIT waits to be read: of who holds them back and is busy.
pub(crate) fn is_asked_to_end() -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: sigpending initialises the set when it succeeds, and sigismember only looks.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT]
                .into_iter()
                .any(|signal| libc::sigismember(pending.as_ptr(), signal) == 1)
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    action(signal).sa_sigaction == libc::SIG_IGN
}

fn action(signal: libc::c_int) -> libc::sigaction {
    let mut action = MaybeUninit::zeroed();
    // SAFETY: asks only; zero is a valid sigaction.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    }
}

/// Whether a file that reaches the caller's size limit (`ulimit -f`) was to end the process: it is an error of the write
/// for us, and means to the job what it meant before.
static FILE_LIMIT_ENDS: AtomicBool = AtomicBool::new(false);

/// Lets writes beyond the file size limit fail, instead of ending this process.
pub(crate) fn survive_the_file_limit() {
    if action(libc::SIGXFSZ).sa_sigaction == libc::SIG_DFL {
        FILE_LIMIT_ENDS.store(true, Ordering::Relaxed);
        // SAFETY: zero is a valid sigaction; the field that matters is set.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = libc::SIG_IGN;
        // SAFETY: a valid action.
        unsafe { libc::sigaction(libc::SIGXFSZ, &raw const action, ptr::null_mut()) };
    }
}

/// For a new process: as it was before [`survive_the_file_limit`].
pub(super) fn restore_the_file_limit() {
    if FILE_LIMIT_ENDS.load(Ordering::Relaxed) {
        set_default(libc::SIGXFSZ);
    }
}

/// Gives a signal its default meaning.
pub(super) fn set_default(signal: libc::c_int) {
    // SAFETY: zero is a valid sigaction: the default, no flags, an empty mask.
    let action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: a valid action.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

/// Gives a signal its default meaning if it has a handler; an ignored one stays ignored.
pub(super) fn remove_handler(signal: libc::c_int) {
    if !matches!(action(signal).sa_sigaction, libc::SIG_IGN | libc::SIG_DFL) {
        set_default(signal);
    }
}

/// Sees to it that ended children wait for us: a caller that ignores SIGCHLD would have the kernel bury them unseen.
pub(super) fn keep_ended_children() {
    let action = action(libc::SIGCHLD);
    if action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0 {
        set_default(libc::SIGCHLD);
    }
}
