//! What triplock itself says on stderr, line by line.
//!
//! A service manager that connects stderr to the journal names that stream in `$JOURNAL_STREAM`, as `DEVICE:INODE`; there
//! a line may begin with its priority, `<3>` (sd-daemon(3)), which the journal takes off. The variable is inherited by
//! everything below a unit, so it says nothing about a stderr that was redirected since: only when stderr is the very
//! stream that it names does a line get one. Anywhere else the characters would be seen.

use std::{
    ffi::OsStr,
    fmt,
    io::{self, Write as _},
};

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// It failed.
    Error,
    /// Something is wrong, and the result stands.
    Warning,
    /// For who wants to know.
    Info,
}

impl Priority {
    /// As the journal reads it; the numbers are syslog(3)'s.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Error => "<3>",
            Self::Warning => "<4>",
            Self::Info => "<6>",
        }
    }
}

/// Prints a line.
pub(crate) fn line(priority: Priority, text: impl fmt::Display) {
    lines(priority, format!("{text}\n").as_bytes());
}

/// Prints whole lines in one write, so that the lines of many processes into one file stay whole.
pub(crate) fn lines(priority: Priority, text: &[u8]) {
    let stream = std::env::var_os("JOURNAL_STREAM");
    // A message that nobody can read is no reason to do anything else.
    let _ = if stream.is_some_and(|stream| is_stderr(&stream)) {
        let line = |line: &[u8]| [priority.prefix().as_bytes(), line].concat();
        io::stderr().write_all(&text.split_inclusive(|byte| *byte == b'\n').flat_map(line).collect::<Vec<_>>())
    } else {
        io::stderr().write_all(text)
    };
}

/// Whether our stderr is that stream.
fn is_stderr(stream: &OsStr) -> bool {
    // The types differ between architectures.
    #[allow(clippy::useless_conversion)]
    let is = |stat: rustix::fs::Stat| parse(stream) == Some((u64::from(stat.st_dev), u64::from(stat.st_ino)));
    rustix::fs::fstat(io::stderr()).is_ok_and(is)
}

/// Device and inode.
fn parse(stream: &OsStr) -> Option<(u64, u64)> {
    let (device, inode) = stream.to_str()?.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_device_and_an_inode() {
        let parse = |stream: &str| super::parse(stream.as_ref());
        assert_eq!(parse("8:77"), Some((8, 77)));
        for broken in ["", ":", "8", "8:", ":77", "8:77:1", "a:b", "8:-7", "8: 77"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn only_the_very_stream_is_the_journal() {
        let stat = rustix::fs::fstat(io::stderr()).expect("there is a stderr");
        let stream = |device, inode| is_stderr(format!("{device}:{inode}").as_ref());
        #[allow(clippy::useless_conversion)]
        let (device, inode) = (u64::from(stat.st_dev), u64::from(stat.st_ino));
        assert!(stream(device, inode));
        assert!(!stream(device + 1, inode));
        assert!(!stream(device, inode + 1));
    }
}
