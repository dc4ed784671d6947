//! What a process asked of the kernel, as strace saw it.

use std::{collections::HashMap, ffi::OsString, fs, path::Path};

/// A system call that returned, in the order of the returns.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// Arguments and result as strace prints them, descriptors with their paths.
    pub(crate) text: String,
    /// It is the process's `nth` call of that name, from 1.
    pub(crate) nth: usize,
}

impl Call {
    pub(crate) fn is(&self, name: &str, mentions: &str) -> bool {
        self.name == name && self.text.contains(mentions)
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.text.rsplit_once(" = ").is_some_and(|(_, result)| !result.starts_with('-') && !result.starts_with('?'))
    }

    /// Whether it changes, locks or syncs a file.
    pub(crate) fn touches_files(&self) -> bool {
        let changes = [
            "write",
            "pwrite64",
            "pwritev",
            "writev",
            "fdatasync",
            "fsync",
            "rename",
            "renameat",
            "renameat2",
            "unlink",
            "unlinkat",
            "ftruncate",
            "fallocate",
            "flock",
            "mkdir",
            "mkdirat",
            "linkat",
            "copy_file_range",
        ];
        changes.contains(&&*self.name) || (self.name == "openat" && self.text.contains("O_CREAT"))
    }
}

/// The words before a command whose calls go to a file. `more` are further options of strace.
pub(crate) fn tracing(to: &Path, more: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["strace", "-f", "-y", "-s", "400", "-o"].map(OsString::from).into();
    words.push(to.into());
    words.extend(more.iter().map(OsString::from));
    words.push("--".into());
    words
}

/// The calls that were traced to a file.
#[track_caller]
pub(crate) fn calls(from: &Path) -> Vec<Call> {
    let text = fs::read_to_string(from).expect("read what strace wrote");
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut begun: HashMap<&str, String> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let whole = if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(pid, start.to_owned());
            continue;
        } else if rest.starts_with("<... ") {
            let Some((_, end)) = rest.split_once("resumed>") else { continue };
            begun.remove(pid).unwrap_or_default() + end
        } else {
            rest.to_owned()
        };
        // Signals and exits have no arguments in parentheses right after a name.
        let Some((name, _)) = whole.split_once('(') else { continue };
        if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            continue;
        }
        let nth = counts.entry(name.to_owned()).or_default();
        *nth += 1;
        calls.push(Call { name: name.to_owned(), nth: *nth, text: whole.clone() });
    }
    assert!(!calls.is_empty(), "strace wrote no call: {text}");
    calls
}
