//! The path by which a scheduler is to start this program: the one by which it was started now, since that is the one that
//! an upgrade keeps (`/usr/bin/triplock`, not what it links to).

use std::{
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

const SELF: &str = "/proc/self/exe";

/// The path, given the word by which the program was started, and `$PATH`.
///
/// # Errors
/// `BadConfiguration` when the program is not there any more: deleted, or replaced while it ran.
pub(crate) fn path(started_as: Option<&OsStr>, search: Option<&OsString>) -> Result<PathBuf> {
    let running = fs::metadata(SELF).map_err(|e| Error::io("stat", SELF, e))?;
    let resolved = fs::read_link(SELF).map_err(|e| Error::io("read", SELF, e))?;
    // (Its own name has none left: whatever the word leads to is another program, or a descriptor.)
    if running.nlink() > 0 {
        if let Some(path) = candidates(started_as, search).into_iter().find(|path| is_running(path, &running)) {
            return Ok(path);
        }
        if is_running(&resolved, &running) {
            return Ok(resolved);
        }
    }
    let shown = resolved.to_string_lossy();
    let path = PathBuf::from(shown.strip_suffix(" (deleted)").unwrap_or(&shown));
    let why = "missing binary path: this program was deleted or replaced since it was started; \
               run it again from where it is now";
    Err(Error::BadConfiguration { path, line: 0, why: why.to_owned() })
}

fn candidates(started_as: Option<&OsStr>, search: Option<&OsString>) -> Vec<PathBuf> {
    let Some(word) = started_as.filter(|word| !word.is_empty()) else { return Vec::new() };
    let absolute = |path: PathBuf| std::path::absolute(path).ok();
    if word.as_encoded_bytes().contains(&b'/') {
        return absolute(word.into()).into_iter().collect();
    }
    let search = search.map(OsString::as_os_str).unwrap_or_default();
    std::env::split_paths(search).filter_map(|dir| absolute(dir.join(word))).collect()
}

/// Whether the path leads to the program that runs; through /proc everything leads somewhere, for a while.
fn is_running(path: &Path, running: &Metadata) -> bool {
    let is_lasting = !path.starts_with("/proc") && !path.starts_with("/dev/fd");
    let same = |found: Metadata| (found.dev(), found.ino()) == (running.dev(), running.ino());
    is_lasting && fs::metadata(path).is_ok_and(same)
}
