//! The alarm that ends a timed wait: a POSIX timer that signals the waiting thread itself.
//!
//! flock(2) has no time-out. A signal whose handler was installed without `SA_RESTART` makes it return `EINTR`, so a
//! timer aimed at this one thread (`SIGEV_THREAD_ID`, see `timer_create(2)`) ends the sleep at the deadline and disturbs no
//! other thread. One shot would not do: a signal that lands just before the system call is entered interrupts
//! nothing, and the sleeper would sleep for ever. So the timer refires every few milliseconds until the call has
//! returned and the alarm is dropped. For the same reason a TERM that is held back (see [`super::signals`]) sets the
//! alarm off instead of counting on its own interruption.
#![allow(unsafe_code)]

use std::{
    io,
    mem::MaybeUninit,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicIsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How soon a signal that came too early is followed by the next.
const REFIRE: Duration = Duration::from_millis(5);

/// Which signal: a real-time one, since the others belong to somebody. C libraries keep the first few themselves.
pub(super) fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 7
}

/// While it lives, blocking calls of this thread return `EINTR` from the deadline on.
pub(super) struct Alarm {
    timer: libc::timer_t,
    mask: libc::sigset_t,
}

/// The alarm that a held-back signal sets off. (One is enough: only a process with one thread holds signals back.)
static CURRENT: AtomicIsize = AtomicIsize::new(NONE);

/// No timer: 0 is one, the first that the kernel gives.
const NONE: isize = -1;

extern "C" fn wake(_: libc::c_int) {}

/// Sets the current alarm off, if there is one. Async-signal-safe.
pub(super) fn go_off_now() {
    let timer = CURRENT.load(Ordering::Relaxed);
    if timer != NONE {
        let times = libc::itimerspec { it_value: timespec(Duration::from_nanos(1)), it_interval: timespec(REFIRE) };
        // SAFETY: timer_settime is async-signal-safe (POSIX), and the timer lives as long as it is the current one.
        unsafe { libc::timer_settime(timer as libc::timer_t, 0, &raw const times, ptr::null_mut()) };
    }
}

/// Installs the handler, once for the process.
pub(super) fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: zero is a valid sigaction; the fields that matter are set below.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = wake as *const () as libc::sighandler_t;
        // SAFETY: the set lives in `action`.
        unsafe { libc::sigemptyset(&raw mut action.sa_mask) };
        // No SA_RESTART: the point is to interrupt.
        action.sa_flags = 0;
        // SAFETY: a valid signal and action; the handler does nothing, so it is async-signal-safe.
        match unsafe { libc::sigaction(signal(), &raw const action, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)),
        }
    });
    installed.map_err(io::Error::from_raw_os_error)
}

impl Alarm {
    /// `None`: it goes off with a held-back signal only.
    pub(super) fn at(deadline: Option<Instant>) -> io::Result<Self> {
        install()?;
        // SAFETY: zero is a valid sigevent.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer = MaybeUninit::uninit();
        // SAFETY: `event` is initialised and `timer` is written when the call succeeds.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, timer.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: timer_create succeeded.
        let timer = unsafe { timer.assume_init() };
        let mut alarm = Self { timer, mask: unblock()? };
        CURRENT.store(alarm.timer as isize, Ordering::Relaxed);
        if let Some(deadline) = deadline {
            alarm.start(deadline.saturating_duration_since(Instant::now()))?;
        }
        Ok(alarm)
    }

    fn start(&mut self, wait: Duration) -> io::Result<()> {
        // Zero would disarm it.
        let times =
            libc::itimerspec { it_value: timespec(wait.max(Duration::from_nanos(1))), it_interval: timespec(REFIRE) };
        // SAFETY: a live timer and a valid time.
        match unsafe { libc::timer_settime(self.timer, 0, &raw const times, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        CURRENT.store(NONE, Ordering::Relaxed);
        // SAFETY: the timer is ours and live; a signal of it that is still pending meets the empty handler.
        unsafe { libc::timer_delete(self.timer) };
        // SAFETY: the mask that pthread_sigmask gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.mask, ptr::null_mut()) };
    }
}

/// Lets the signal through to this thread, whose creator may have blocked everything; gives the mask to restore.
fn unblock() -> io::Result<libc::sigset_t> {
    let mut wanted = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before sigaddset and pthread_sigmask read it; `before` is written when
    // pthread_sigmask succeeds.
    unsafe {
        libc::sigemptyset(wanted.as_mut_ptr());
        libc::sigaddset(wanted.as_mut_ptr(), signal());
        match libc::pthread_sigmask(libc::SIG_UNBLOCK, wanted.as_ptr(), before.as_mut_ptr()) {
            0 => Ok(before.assume_init()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// Lets the alarm's signal through to this thread, for [`call`].
pub(super) fn let_through() -> io::Result<()> {
    unblock().map(drop)
}

/// Makes the blocking call of another thread return `EINTR`, if it is in one.
pub(super) fn call(thread: &std::thread::JoinHandle<()>) {
    use std::os::unix::thread::JoinHandleExt as _;
    // SAFETY: the thread has not been joined, so its id means it; the handler is installed and does nothing.
    unsafe { libc::pthread_kill(thread.as_pthread_t() as libc::pthread_t, signal()) };
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        // A wait of more than 68 years is cut to those, which every C library's time_t holds.
        tv_sec: i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).into(),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
