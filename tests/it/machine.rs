//! What this machine lets a test do, and saying so plainly when it does not.

use std::{env, fs, io::Write as _, path::Path, process::Command};

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether all those programs are there; if not, the test is skipped out loud.
#[track_caller]
pub(crate) fn has(test: &str, programs: &[&str]) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| {
            let sbin = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).to_owned());
            !env::split_paths(&path).chain(sbin).any(|dir| dir.join(program).is_file())
        })
        .collect();
    if missing.is_empty() {
        return true;
    }
    skip(test, &format!("not installed: {missing:?}"));
    false
}

/// Whether the test may mount and use loop devices; if not, it is skipped out loud.
#[track_caller]
pub(crate) fn may_mount(test: &str) -> bool {
    if !is_root() {
        skip(test, "needs root, to mount file systems");
        return false;
    }
    if !Path::new("/dev/loop-control").exists() {
        skip(test, "needs loop devices (/dev/loop-control)");
        return false;
    }
    has(test, &["mount", "umount", "losetup"])
}

/// Whether the test may trace processes; if not, it is skipped out loud.
#[track_caller]
pub(crate) fn may_trace(test: &str) -> bool {
    if !has(test, &["strace"]) {
        return false;
    }
    let tried = Command::new("strace").args(["-o", "/dev/null", "true"]).output().expect("strace is installed");
    if tried.status.success() {
        return true;
    }
    skip(test, &format!("strace may not trace here: {}", String::from_utf8_lossy(&tried.stderr).trim()));
    false
}

/// Says that a test could not run, and why: on stderr, and in the file that `$TRIPLOCK_SKIPS` names. For root in CI
/// everything can be had, so there it is a failure.
#[track_caller]
pub(crate) fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}");
    eprintln!("{line}");
    if let Some(list) = env::var_os("TRIPLOCK_SKIPS") {
        let mut list = fs::OpenOptions::new().append(true).create(true).open(list).expect("open $TRIPLOCK_SKIPS");
        list.write_all(format!("{line}\n").as_bytes()).expect("write to $TRIPLOCK_SKIPS");
    }
    assert!(!(is_root() && env::var("CI").is_ok_and(|ci| ci == "true")), "{line}; in CI as root nothing is skipped");
}

/// A number from the environment, or the default.
pub(crate) fn number(variable: &str, default: usize) -> usize {
    match env::var(variable) {
        Ok(given) => given.parse().unwrap_or_else(|e| panic!("{variable}={given}: {e}")),
        Err(_) => default,
    }
}
