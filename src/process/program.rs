//! A command line made ready for `execve`: nothing is left to do for the new process but to try.

use std::{
    env,
    ffi::{OsStr, OsString, c_char},
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use super::spawn::SpawnError;

/// Where a command without a slash is looked for when there is no `PATH` (execvp(3) of the common C libraries).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// A command and where it may be: looked up as execvp(3) does, except that the looking is prepared here and done by the
/// new process, so that a program that is found at once costs no call more than its own start.
#[derive(Debug)]
pub(crate) struct Program {
    pub(super) arguments: Strings,
    pub(super) candidates: Strings,
    /// The command's name has no slash.
    pub(super) in_path: bool,
}

impl Program {
    /// Prepares a command line.
    ///
    /// # Errors
    /// [`SpawnError::NotFound`] when there is no command; [`SpawnError::NotExecutable`] when something in it contains a
    /// NUL, which no program can be given.
    pub(crate) fn find(argv: &[OsString]) -> Result<Self, SpawnError> {
        let Some(name) = argv.first().map(|name| name.as_bytes()) else {
            return Err(SpawnError::NotFound(io::Error::from_raw_os_error(libc::ENOENT)));
        };
        let mut arguments = Strings::default();
        for argument in argv {
            arguments.push(&[argument.as_bytes()]).map_err(SpawnError::NotExecutable)?;
        }
        // No directory has a command without a name; to try none finds the same.
        let in_path = !name.is_empty() && !name.contains(&b'/');
        let mut candidates = Strings::default();
        if in_path {
            let path = env::var_os("PATH");
            let path = path.as_deref().map_or(DEFAULT_PATH, OsStr::as_bytes);
            for dir in path.split(|byte| *byte == b':') {
                // An empty entry means the current directory.
                let slash: &[u8] = if dir.is_empty() { b"" } else { b"/" };
                candidates.push(&[dir, slash, name]).map_err(SpawnError::NotExecutable)?;
            }
        } else {
            candidates.push(&[name]).map_err(SpawnError::NotExecutable)?;
        }
        Ok(Self { arguments, candidates, in_path })
    }
}

/// Strings in one block, each ended by a NUL, as C wants them.
#[derive(Debug, Default)]
pub(super) struct Strings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Strings {
    /// Adds one string made of those parts.
    pub(super) fn push(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        if parts.iter().any(|part| part.contains(&0)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an argument contains a NUL byte"));
        }
        self.starts.push(self.bytes.len());
        self.bytes.extend(parts.iter().copied().flatten());
        self.bytes.push(0);
        Ok(())
    }

    /// Each of them as a path.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> + '_ {
        let of = |start: &usize| self.bytes[*start..].split(|byte| *byte == 0).next().unwrap_or_default();
        self.starts.iter().map(move |start| Path::new(OsStr::from_bytes(of(start))))
    }

    /// Pointers to all of them; valid until the next `push` or the end of this.
    pub(super) fn pointers(&self) -> impl Iterator<Item = *const c_char> + '_ {
        self.starts.iter().map(|start| self.bytes[*start..].as_ptr().cast())
    }
}
