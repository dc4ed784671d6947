//! Signals by name, as kill(1) lists them.

use libc::c_int;

const NAMES: [(&str, c_int); 30] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("SYS", libc::SIGSYS),
];

/// The number of a signal that is given by name, with or without `SIG`, in any case, or by number.
pub(crate) fn parse(given: &str) -> Result<c_int, String> {
    let upper = given.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    number(given).ok_or_else(|| "give a signal's name (TERM, SIGINT, HUP …) or its number".to_owned())
}

/// A signal's number. Those between the standard and the real-time ones are the C library's.
fn number(given: &str) -> Option<c_int> {
    let number = given.parse().ok()?;
    ((1..=31).contains(&number) || (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_many_spellings() {
        for spelling in ["TERM", "SIGTERM", "term", "sigterm", "15"] {
            assert_eq!(parse(spelling), Ok(libc::SIGTERM), "{spelling}");
        }
        for bad in ["", "SIG", "0", "-15", "32", "65", "TERMINATE", "15 "] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
