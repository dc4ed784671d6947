//! Signals that would end the process, held back while a commit is under way.
//!
//! Until something is appended, TERM, INT and HUP keep their default meaning: the kernel ends the waiter, and nothing
//! was booked. Between the append and the answer that would leave the caller not knowing, so there the signals only
//! raise a flag: the commit goes on to its answer, and a wait that is still needed ends with "outcome uncertain".
//! A signal that was ignored (nohup) stays ignored. Once the answer is known they mean what they meant before: writing it
//! may take for ever.
#![allow(unsafe_code)]

use std::{
    io,
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicI32, AtomicUsize, Ordering},
};

use super::timer;

/// The last signal that was held back; 0 before the first.
static ARRIVED: AtomicI32 = AtomicI32::new(0);

/// How many [`Deferred`] live.
static HOLDING_BACK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn note(signal: libc::c_int) {
    ARRIVED.store(signal, Ordering::Relaxed);
    // It may have landed just before the wait that it is to end was entered.
    timer::go_off_now();
}

/// Whether signals are held back.
pub(super) fn are_held_back() -> bool {
    HOLDING_BACK.load(Ordering::Relaxed) > 0
}

/// The deferred signal that arrived last.
pub(crate) fn arrived() -> Option<i32> {
    Some(ARRIVED.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// Whether a deferred signal arrived; never before [`Deferred::begin`].
pub(crate) fn signal_arrived() -> bool {
    arrived().is_some()
}

/// The same as an error that ends a wait.
pub(super) fn interrupted() -> io::Result<()> {
    if signal_arrived() {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted by a signal"));
    }
    Ok(())
}

const HELD_BACK: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The signals that may have a handler of this module's or the timer's: a new process must not run those.
pub(crate) fn handled_signals() -> [libc::c_int; 4] {
    let [first, second, third] = HELD_BACK;
    [first, second, third, timer::signal()]
}

/// While it lives the signals only raise the flag.
pub(crate) struct Deferred {
    before: [libc::sigaction; 3],
}

impl Deferred {
    pub(crate) fn begin() -> Self {
        HOLDING_BACK.fetch_add(1, Ordering::Relaxed);
        let before = HELD_BACK.map(|signal| {
            // SAFETY: zero is a valid sigaction; the fields that matter are set below.
            let mut before: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            // SAFETY: as above.
            let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            action.sa_sigaction = note as *const () as libc::sighandler_t;
            // SAFETY: valid signal and pointers; the handler only stores to an atomic. Without SA_RESTART, so that it
            // ends a wait.
            unsafe {
                libc::sigaction(signal, &raw const action, &raw mut before);
                if before.sa_sigaction == libc::SIG_IGN {
                    libc::sigaction(signal, &raw const before, ptr::null_mut());
                }
            }
            before
        });
        Self { before }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        HOLDING_BACK.fetch_sub(1, Ordering::Relaxed);
        for (signal, before) in HELD_BACK.iter().zip(&self.before) {
            // SAFETY: the action that was there before.
            unsafe { libc::sigaction(*signal, before, ptr::null_mut()) };
        }
    }
}
