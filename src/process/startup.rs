//! What this process was started with, before Rust's runtime changed it.
//!
//! The runtime ignores SIGPIPE and opens /dev/null in place of closed standard descriptors before `main`. A command
//! that takes our place must find SIGPIPE as we found it (an ignored one has `yes | head` complain, a default one kills who
//! asked not to be killed), so this looks first: the C library calls what stands in `.init_array` before `main`.
#![allow(unsafe_code)]

use std::{
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
};

static PIPE_SIGNAL_IGNORED: AtomicBool = AtomicBool::new(false);

/// A bit for each of the descriptors 0, 1 and 2.
static CLOSED: AtomicU8 = AtomicU8::new(0);

#[used]
// SAFETY: the section holds pointers to functions of no arguments (further ones are passed and left alone), which are
// called once, before any other thread is there.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: zero is a valid sigaction.
    let mut found: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: a valid signal and pointer; nothing is changed.
    unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), &raw mut found) };
    PIPE_SIGNAL_IGNORED.store(found.sa_sigaction == libc::SIG_IGN, Ordering::Relaxed);
    let mut standard = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: three valid entries; it does not wait.
    unsafe { libc::poll(standard.as_mut_ptr(), 3, 0) };
    let closed = standard.iter().filter(|entry| entry.revents & libc::POLLNVAL != 0);
    CLOSED.store(closed.fold(0, |bits, entry| bits | 1 << entry.fd), Ordering::Relaxed);
}

/// Whether that standard descriptor was closed: /dev/null is there now, and nobody asked for that.
pub(crate) fn was_closed(fd: i32) -> bool {
    (0..3).contains(&fd) && CLOSED.load(Ordering::Relaxed) & (1 << fd) != 0
}

/// Undoes what the runtime did to SIGPIPE, for this process and those that it starts.
pub(crate) fn restore_pipe_signal() {
    if !PIPE_SIGNAL_IGNORED.load(Ordering::Relaxed) {
        // SAFETY: the default action; nothing of ours handles this signal.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
}
