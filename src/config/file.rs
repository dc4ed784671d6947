//! Reads a file or a directory of files, if only root or this user can have written it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::Problem;

/// A larger one was not written by a person.
const MOST: u64 = 1024 * 1024;

/// What a path turned out to be.
#[derive(Debug)]
pub(crate) enum Opened {
    /// Nothing is there.
    Missing,
    /// A file's text.
    File(String),
    /// A directory, and the paths of the files in it that end in `.toml`, in byte order.
    Directory(OwnedFd, Vec<PathBuf>),
}

/// Opens a file or a directory, as it would be read for that user.
pub(crate) fn open(path: &Path, user: u32) -> Result<Opened, Problem> {
    open_at(CWD, path, path, user)
}

/// The text of a file, or `None` when none is there; and whether others than its owner may read it.
pub(crate) fn read_file(path: &Path, user: u32) -> Result<Option<(String, bool)>, Problem> {
    let opened = open_as(CWD, path, path, |path, stat| judge(path, stat, user))?;
    let mut is_open = false;
    let (opened, stat) = opened;
    if let Some(stat) = stat {
        is_open = Mode::from_raw_mode(stat.st_mode).intersects(Mode::RGRP | Mode::ROTH);
    }
    Ok(text_of(path, opened)?.map(|text| (text, is_open)))
}

/// The text of a file with a secret, which nobody else may read or have written; `None` when none is there.
pub(crate) fn read_secret(path: &Path, user: u32) -> Result<Option<String>, Problem> {
    let (opened, _) = open_as(CWD, path, path, |path, stat| judge_secret(path, stat, user))?;
    text_of(path, opened)
}

/// The same of a file in a directory that was opened.
pub(crate) fn read_in(directory: &OwnedFd, path: &Path, user: u32) -> Result<Option<String>, Problem> {
    let name = path.file_name().map_or(path, Path::new);
    text_of(path, open_at(directory.as_fd(), name, path, user)?)
}

fn text_of(path: &Path, opened: Opened) -> Result<Option<String>, Problem> {
    match opened {
        Opened::Missing => Ok(None),
        Opened::File(text) => Ok(Some(text)),
        Opened::Directory(..) => Err(not_regular(path, "directory")),
    }
}

fn open_at(directory: impl AsFd, name: &Path, path: &Path, user: u32) -> Result<Opened, Problem> {
    open_as(directory, name, path, |path, stat| judge(path, stat, user)).map(|(opened, _)| opened)
}

/// The same, if what it is and whose is accepted; and what was found.
fn open_as(
    directory: impl AsFd,
    name: &Path,
    path: &Path,
    judge: impl Fn(&Path, &Stat) -> Result<(), Problem>,
) -> Result<(Opened, Option<Stat>), Problem> {
    let cannot = |what: &str, source: io::Error| Problem::of_file(path, format!("cannot {what}: {source}"));
    // Without waiting for a fifo's writer. A symbolic link is followed: what counts is who wrote what it leads to.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok((Opened::Missing, None)),
        Err(Errno::NXIO) => return Err(not_regular(path, "socket")),
        fd => fd.map_err(|e| cannot("open", e.into()))?,
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| cannot("stat", e.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => {
            judge(path, &stat)?;
            let names = names(&fd, path).map_err(|e| cannot("list", e.into()))?;
            return Ok((Opened::Directory(fd, names), Some(stat)));
        }
        FileType::Fifo => return Err(not_regular(path, "fifo")),
        _ => return Err(not_regular(path, "device")),
    }
    judge(path, &stat)?;
    let mut bytes = Vec::new();
    File::from(fd).take(MOST + 1).read_to_end(&mut bytes).map_err(|e| cannot("read", e))?;
    if bytes.len() as u64 > MOST {
        return Err(Problem::of_file(path, "is larger than 1 MiB; is it the right file?"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((Opened::File(text), Some(stat))),
        Err(e) => {
            let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = 1 + memchr::memchr_iter(b'\n', good).count();
            Err(Problem {
                path: path.to_owned(),
                line,
                why: "is not UTF-8 here; save the file as UTF-8".to_owned(),
                job: None,
            })
        }
    }
}

fn not_regular(path: &Path, kind: &str) -> Problem {
    Problem::of_file(path, format!("is a {kind}, not a regular file; move it away"))
}

/// Who may have written it.
fn judge(path: &Path, stat: &Stat, me: u32) -> Result<(), Problem> {
    if stat.st_uid != 0 && stat.st_uid != me {
        let why = format!(
            "belongs to user {}, who could have anything run by user {me}; chown it to user {me} or root",
            stat.st_uid
        );
        return Err(Problem::of_file(path, why));
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        let who = if mode.contains(Mode::WOTH) { "everybody" } else { "its group" };
        let why = format!("is writable by {who}, who could have anything run by user {me}; chmod go-w it");
        return Err(Problem::of_file(path, why));
    }
    Ok(())
}

/// Who may read it.
fn judge_secret(path: &Path, stat: &Stat, me: u32) -> Result<(), Problem> {
    if stat.st_uid != 0 && stat.st_uid != me {
        let why =
            format!("belongs to user {}, who could read the password; chown it to user {me} or root", stat.st_uid);
        return Err(Problem::of_file(path, why));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
        let why = format!("a password is in it and others than its owner may use it; chmod 600 {}", path.display());
        return Err(Problem::of_file(path, why));
    }
    Ok(())
}

fn names(fd: &OwnedFd, path: &Path) -> Result<Vec<PathBuf>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        // Editors keep what they are about to save under names that begin with a dot.
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            use std::os::unix::ffi::OsStrExt as _;
            names.push(path.join(std::ffi::OsStr::from_bytes(name)));
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn open(path: &Path) -> Result<Opened, Problem> {
        super::open(path, rustix::process::geteuid().as_raw())
    }

    fn read_file(path: &Path) -> Result<Option<String>, Problem> {
        let read = super::read_file(path, rustix::process::geteuid().as_raw())?;
        Ok(read.map(|(text, _)| text))
    }

    fn with_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_what_this_user_or_root_wrote_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        assert!(matches!(open(&path), Ok(Opened::Missing)));
        assert!(matches!(open(&path.join("y")), Ok(Opened::Missing)));
        fs::write(&path, "a = 1\n").unwrap();
        with_mode(&path, 0o644);
        assert_eq!(read_file(&path).unwrap().unwrap(), "a = 1\n");
        for (mode, who) in [(0o664, "its group"), (0o646, "everybody")] {
            with_mode(&path, mode);
            let why = read_file(&path).unwrap_err().why;
            assert!(why.starts_with(&format!("is writable by {who}")), "{why}");
        }
        with_mode(dir.path(), 0o777);
        assert!(open(dir.path()).unwrap_err().why.starts_with("is writable by everybody"));
    }

    #[test]
    fn a_secret_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let me = rustix::process::geteuid().as_raw();
        assert_eq!(read_secret(&path, me), Ok(None));
        fs::write(&path, "s3cret\n").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o644] {
            with_mode(&path, mode);
            let why = read_secret(&path, me).unwrap_err().to_string();
            assert!(why.ends_with(&format!("; chmod 600 {}", path.display())), "{why}");
        }
        for mode in [0o600, 0o400] {
            with_mode(&path, mode);
            assert_eq!(read_secret(&path, me).unwrap().unwrap(), "s3cret\n");
        }
        if me == 0 {
            std::os::unix::fs::chown(&path, Some(4711), None).unwrap();
            assert!(read_secret(&path, me).unwrap_err().why.starts_with("belongs to user 4711"));
        }
    }

    #[test]
    fn whatever_is_no_text_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(read_file(&path).unwrap_err().why, "is a fifo, not a regular file; move it away");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        with_mode(&path, 0o755);
        assert_eq!(read_file(&path).unwrap_err().why, "is a directory, not a regular file; move it away");
        let path = dir.path().join("y.toml");
        fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
        with_mode(&path, 0o644);
        assert_eq!(read_file(&path).unwrap_err().line, 2);
        fs::write(&path, vec![b' '; 1024 * 1024 + 1]).unwrap();
        assert!(read_file(&path).unwrap_err().why.starts_with("is larger than 1 MiB"));
    }

    #[test]
    fn a_directory_gives_its_toml_files_in_byte_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", ".c.toml", "d.toml~", "README"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let Opened::Directory(_, paths) = open(dir.path()).unwrap() else { panic!("no directory") };
        assert_eq!(paths, [dir.path().join("a.toml"), dir.path().join("b.toml")]);
    }
}
