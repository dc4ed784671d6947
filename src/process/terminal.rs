//! Whether somebody sits at a terminal and we are what runs there.

use std::io;

/// Whether standard input, output or error is a terminal whose foreground is our process group.
///
/// Then the job must stay in that group: the terminal stops a background group that reads from it, and its keys (Ctrl-C,
/// Ctrl-Z) reach the foreground group only.
pub(crate) fn in_foreground() -> bool {
    let own = rustix::process::getpgrp();
    // What is no terminal answers ENOTTY.
    rustix::termios::tcgetpgrp(io::stdin()).is_ok_and(|group| group == own)
        || rustix::termios::tcgetpgrp(io::stdout()).is_ok_and(|group| group == own)
        || rustix::termios::tcgetpgrp(io::stderr()).is_ok_and(|group| group == own)
}
