//! Files are written all or none: everything is looked at before the first is touched, each appears whole under its name,
//! and what was done is undone when a later step fails.
//!
//! Until it is whole, a file has a name with a dot at its beginning and none of systemd's endings: cron and systemd both
//! pass such names over. One that a crash left is removed by whoever writes there next.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// What a file is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    /// What it is; `None` when it is not there.
    pub(crate) old: Option<Vec<u8>>,
    /// What it becomes; `None` removes it.
    pub(crate) new: Option<String>,
}

impl Change {
    /// What it does, in a word.
    pub(crate) fn word(&self) -> &'static str {
        match (&self.old, &self.new) {
            (None, Some(_)) => "written",
            (Some(old), Some(new)) if old == new.as_bytes() => "unchanged",
            (Some(_), Some(_)) => "updated",
            (Some(_), None) => "removed",
            (None, None) => "missing",
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.word(), "unchanged" | "missing")
    }
}

/// What was done and can be undone.
#[derive(Debug, Default)]
pub(crate) struct Written<'c> {
    done: Vec<&'c Change>,
    /// Directories that were made, the outer first.
    made: Vec<PathBuf>,
}

impl<'c> Written<'c> {
    /// Makes all changes, or none.
    ///
    /// # Errors
    /// `CannotCreate` or `Io` for the file that could not be written or removed; the others are as they were.
    pub(crate) fn all(changes: &'c [Change]) -> Result<Self> {
        let mut written = Self::default();
        for change in changes.iter().filter(|change| !change.is_idle()) {
            if let Err(e) = written.apply(change) {
                written.undo();
                return Err(e);
            }
            written.done.push(change);
        }
        Ok(written)
    }

    fn apply(&mut self, change: &Change) -> Result<()> {
        sweep(change.path.parent().unwrap_or(Path::new("/")));
        match &change.new {
            Some(text) => {
                let directory = change.path.parent().unwrap_or(Path::new("/"));
                self.make(directory).map_err(|e| Error::cannot_create(directory, e))?;
                put(&change.path, text.as_bytes()).map_err(|e| Error::cannot_create(&change.path, e))
            }
            None => take(&change.path).map_err(|e| Error::io("remove", &change.path, e)),
        }
    }

    fn make(&mut self, directory: &Path) -> io::Result<()> {
        match fs::create_dir(directory) {
            Ok(()) => {
                self.made.push(directory.to_owned());
                fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let Some(parent) = directory.parent() else { return Err(e) };
                self.make(parent)?;
                self.make(directory)
            }
            Err(e) => Err(e),
        }
    }

    /// Puts everything back. As far as that goes: what cannot be put back is no worse than what made it necessary.
    pub(crate) fn undo(self) {
        for change in self.done.into_iter().rev() {
            let _ = match &change.old {
                Some(old) => put(&change.path, old),
                None => take(&change.path),
            };
        }
        for directory in self.made.into_iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// The beginning of the names of files that are not whole yet.
const UNFINISHED: &str = ".triplock-";

/// Removes what somebody who was killed has left. (Whoever else is alive waits for his turn.)
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

fn take(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_everything_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("old"), "old").unwrap();
        fs::write(at("gone"), "gone").unwrap();
        // A directory cannot be replaced by a file.
        fs::create_dir(at("wall")).unwrap();
        let change = |name: &str, old: Option<&str>, new: Option<&str>| Change {
            path: at(name),
            old: old.map(|old| old.as_bytes().to_owned()),
            new: new.map(str::to_owned),
        };
        fs::write(at(".triplock-of-a-killed-one"), "ha").unwrap();
        let mut changes = vec![
            change("old", Some("old"), Some("new")),
            change("deep/er/new", None, Some("new")),
            change("gone", Some("gone"), None),
            change("wall", None, Some("x")),
        ];
        assert!(Written::all(&changes).is_err());
        let found = |name: &str| fs::read_to_string(at(name)).ok();
        assert_eq!((found("old"), found("gone")), (Some("old".into()), Some("gone".into())));
        assert!(!at("deep").exists());
        changes.pop();
        let written = Written::all(&changes).unwrap();
        assert_eq!((found("old"), found("deep/er/new"), found("gone")), (Some("new".into()), Some("new".into()), None));
        written.undo();
        assert_eq!(
            (found("old"), found("gone"), at("deep").exists()),
            (Some("old".into()), Some("gone".into()), false)
        );
        // Nothing else is left, under any name.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
