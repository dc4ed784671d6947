//! Lock files that `flock` lines name: whether everybody who is to lock one may open it, and sees the same lock.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    crontabs::trouble,
    findings::Findings,
    machine::Machine,
    start::{Start, Subject},
};

/// Examines each lock file, and the state directories that schedulers name.
pub(super) fn examine(machine: &Machine, starts: &[Start], findings: &mut Findings) {
    for start in starts {
        if let Subject::LockFile { path, .. } = &start.asked.subject {
            if path.is_absolute() {
                protected(machine, start, path, findings);
                network(machine, start, path, "lock file", findings);
            }
        }
    }
    // Once for each directory, whoever uses it.
    let mut directories: BTreeMap<PathBuf, &Start> = BTreeMap::new();
    for start in starts.iter().filter(|start| start.asked.subject.locked().is_some()) {
        if let Some(Ok(dir)) = start.state_dir(machine) {
            directories.entry(dir).or_insert(start);
        }
    }
    for (dir, start) in directories {
        network(machine, start, &dir, "state directory", findings);
    }
}

fn network(machine: &Machine, start: &Start, path: &Path, what: &str, findings: &mut Findings) {
    let Some(mount) = machine.mounts.of(path).filter(|mount| mount.is_network()) else { return };
    let message = format!(
        "{}: its {what} {} lies on {} ({}), where locks of other hosts may not be seen; choose a directory of this machine, \
         such as /var/lib/triplock",
        start.at,
        path.display(),
        mount.kind,
        mount.point.display()
    );
    findings.problem(trouble("network_file_system", message, &start.at).with("lock", path.to_string_lossy()));
}

/// With `fs.protected_regular` nobody may open a file with `O_CREAT` that somebody else has put into a sticky directory that
/// everybody (with 2: or a group) may write to, be it root; flock(1) opens its file so.
fn protected(machine: &Machine, start: &Start, path: &Path, findings: &mut Findings) {
    let (Some(directory), Some(uid)) = (path.parent(), start.user.uid) else { return };
    let (Ok(file), Ok(above)) = (std::fs::symlink_metadata(machine.at(path)), std::fs::metadata(machine.at(directory)))
    else {
        return;
    };
    let setting = if file.is_file() { "protected_regular" } else { "protected_fifos" };
    let level = machine.text(format!("/proc/sys/fs/{setting}")).and_then(|text| text.trim().parse::<u32>().ok());
    let is_sticky = above.mode() & 0o1000 != 0;
    let is_open = above.mode() & 0o002 != 0 || level == Some(2) && above.mode() & 0o020 != 0;
    let is_foreign = file.uid() != uid && file.uid() != above.uid();
    if level.unwrap_or_default() == 0 || !is_sticky || !is_open || !is_foreign || file.is_dir() {
        return;
    }
    let message = format!(
        "{}: user {} may not open the lock file {}, which belongs to user {} and lies in a directory that everybody may \
         write to (fs.{setting}); lock a file under /run/lock/SUBDIRECTORY or /var/lib instead, or use `triplock run`",
        start.at,
        start.user.name,
        path.display(),
        file.uid()
    );
    findings.problem(trouble("protected_lock_file", message, &start.at).with("lock", path.to_string_lossy()));
}
