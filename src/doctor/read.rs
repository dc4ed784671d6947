//! Reads what others wrote, whatever they wrote: at most so much of it, never waiting for it, never executing it.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
};

/// A larger crontab or unit was not written by a person.
const MOST_BYTES: u64 = 256 * 1024;

/// A directory of more files than this is looked at in part.
const MOST_NAMES: usize = 20_000;

/// What a path turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    Missing,
    /// Bytes that are no UTF-8 are replaced: they are nothing that we look for.
    Text(String),
    /// `/dev/null`: systemd's way to say that there is nothing.
    Masked,
    /// It is there, and cannot be read, because of this.
    Unreadable(String),
}

/// The text of a regular file.
pub(super) fn file(path: &Path) -> Read {
    // Without waiting for a fifo's writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Read::Missing,
        Err(errno) => return Read::Unreadable(errno.to_string()),
    };
    let stat = match rustix::fs::fstat(&fd) {
        Ok(stat) => stat,
        Err(errno) => return Read::Unreadable(errno.to_string()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::CharacterDevice => return Read::Masked,
        _ => return Read::Unreadable("is not a regular file".to_owned()),
    }
    let mut bytes = Vec::new();
    match File::from(fd).take(MOST_BYTES + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 > MOST_BYTES => Read::Unreadable("is larger than 256 KiB".to_owned()),
        Ok(_) => Read::Text(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) => Read::Unreadable(e.to_string()),
    }
}

/// The names in a directory, in byte order; none when it cannot be listed. Names that are no UTF-8 are left out: no
/// scheduler reads them.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, String> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e.to_string()),
    };
    let mut names: Vec<String> =
        entries.take(MOST_NAMES).filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// The path as it is below another root directory.
pub(super) fn below(root: &Path, path: impl AsRef<OsStr>) -> PathBuf {
    let path = Path::new(path.as_ref());
    if root == Path::new("/") { path.to_owned() } else { root.join(path.strip_prefix("/").unwrap_or(path)) }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn whatever_lies_there_is_read_in_bounded_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        assert_eq!(file(&path("none")), Read::Missing);
        fs::write(path("text"), b"a\xffb").unwrap();
        assert_eq!(file(&path("text")), Read::Text("a\u{fffd}b".to_owned()));
        symlink("/dev/null", path("masked")).unwrap();
        assert_eq!(file(&path("masked")), Read::Masked);
        symlink("loop", path("loop")).unwrap();
        rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        File::create(path("huge")).unwrap().set_len(1 << 40).unwrap();
        for name in ["loop", "fifo", "huge", "."] {
            assert!(matches!(file(&path(name)), Read::Unreadable(_)), "{name}");
        }
        assert_eq!(names(dir.path()).unwrap(), ["fifo", "huge", "loop", "masked", "text"]);
        assert_eq!(names(&path("none")).unwrap(), Vec::<String>::new());
        assert_eq!(names(&path("text")).unwrap(), Vec::<String>::new());
        assert_eq!(below(Path::new("/r"), "/etc/x"), Path::new("/r/etc/x"));
        assert_eq!(below(Path::new("/"), "/etc/x"), Path::new("/etc/x"));
    }
}
