//! Whether somebody sits at a terminal and we are what runs there.
#![allow(unsafe_code)]

use std::{io, os::fd::AsFd};

/// Whether standard input, output or error is a terminal whose foreground is our process group.
///
/// Then the job must stay in that group: the terminal stops a background group that reads from it, and its keys (Ctrl-C,
/// Ctrl-Z) reach the foreground group only.
pub(crate) fn in_foreground() -> bool {
    // SAFETY: asks only. (0 when the group is in a pid namespace that we do not see, which is no group's number.)
    let own = unsafe { libc::getpgrp() };
    // What is no terminal answers ENOTTY.
    let is_ours =
        |fd: &dyn AsFd| rustix::termios::tcgetpgrp(fd.as_fd()).is_ok_and(|group| group.as_raw_nonzero().get() == own);
    is_ours(&io::stdin()) || is_ours(&io::stdout()) || is_ours(&io::stderr())
}
