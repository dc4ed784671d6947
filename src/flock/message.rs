//! What flock(1) says when it fails, word for word: scripts and people compare.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt as _};

use crate::stderr::{self, Priority};

/// What this program calls itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Called<'a> {
    /// As it was called; the messages about options begin so.
    whole: &'a OsStr,
    /// The same without its directory, for all others.
    short: &'a OsStr,
}

impl<'a> Called<'a> {
    pub(super) fn new(whole: &'a OsStr) -> Self {
        let bytes = whole.as_bytes();
        let start = bytes.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
        Self { whole, short: OsStr::from_bytes(&bytes[start..]) }
    }

    pub(super) fn short(self) -> &'a [u8] {
        self.short.as_bytes()
    }

    /// A line on stderr.
    pub(super) fn warn(self, message: &[u8]) {
        stderr::lines(Priority::Warning, &[self.short(), b": ", message, b"\n"].concat());
    }

    /// Says why it fails, and gives the exit code.
    pub(super) fn fail(self, failure: &Failure) -> u8 {
        let name = if failure.about_options { self.whole.as_bytes() } else { self.short() };
        let mut text = match &*failure.message {
            b"" => Vec::new(),
            message => [name, b": ", message, b"\n"].concat(),
        };
        if failure.hint {
            text.extend([b"Try '", self.short(), b" --help' for more information.\n"].concat());
        }
        stderr::lines(Priority::Error, &text);
        failure.code
    }
}

/// Why it fails.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Empty when there is nothing to say but the hint.
    message: Vec<u8>,
    pub(super) code: u8,
    /// The name before the message is the one it was called by.
    about_options: bool,
    /// Point to `--help`.
    hint: bool,
}

impl Failure {
    pub(super) fn new(code: u8, message: &[&[u8]]) -> Self {
        Self { message: message.concat(), code, about_options: false, hint: false }
    }

    /// A wrong command line.
    pub(super) fn usage(message: &[&[u8]]) -> Self {
        Self::new(USAGE, message)
    }

    /// An option that there is not, or not so.
    pub(super) fn option(message: &[&[u8]]) -> Self {
        Self { about_options: true, hint: true, ..Self::usage(message) }
    }

    pub(super) fn with_hint(self) -> Self {
        Self { hint: true, ..self }
    }
}

/// The exit codes, of sysexits.h.
pub(super) const USAGE: u8 = 64;
pub(super) const BAD_DESCRIPTOR: u8 = 65;
pub(super) const NO_FILE: u8 = 66;
pub(super) const CANNOT_EXECUTE: u8 = 69;
pub(super) const SYSTEM: u8 = 71;
pub(super) const CANNOT_CREATE: u8 = 73;

/// What the GNU C library calls that error: musl has other words for some, and messages must not depend on the build.
pub(super) fn words(error: &io::Error) -> Vec<u8> {
    let number = error.raw_os_error().unwrap_or_default();
    let gnu = match number {
        libc::EIO => "Input/output error",
        libc::ENOMEM => "Cannot allocate memory",
        libc::EMFILE => "Too many open files",
        libc::ENFILE => "Too many open files in system",
        libc::ELOOP => "Too many levels of symbolic links",
        libc::ENAMETOOLONG => "File name too long",
        libc::ERANGE => "Numerical result out of range",
        libc::EDQUOT => "Disk quota exceeded",
        libc::EOPNOTSUPP => "Operation not supported",
        libc::EOVERFLOW => "Value too large for defined data type",
        _ => {
            let text = error.to_string();
            return text.strip_suffix(&format!(" (os error {number})")).unwrap_or(&text).as_bytes().to_vec();
        }
    };
    gnu.as_bytes().to_vec()
}
