//! Whether there is room for another line: bytes, inodes, and what the shell's limits allow.

use std::path::Path;

use rustix::{
    fs::{StatVfs, StatVfsMountFlags},
    process::{Resource, Rlimit, getrlimit},
};

use super::{
    findings::{Findings, Trouble},
    mounts::Mounts,
};

/// Less than this is full to an ordinary user soon: a log may have 10 MB.
const FEW_BYTES: u64 = 16 << 20;

/// A run with a captured log makes up to four files.
const FEW_INODES: u64 = 64;

/// triplock itself has about twenty descriptors open, with every lock that a run may take.
const FEW_DESCRIPTORS: u64 = 64;

pub(super) fn examine(mounts: &Mounts, state: &Path, findings: &mut Findings) {
    // One that cannot be asked says so at the first write.
    if let Ok(room) = rustix::fs::statvfs(state) {
        if let Some(trouble) = read_only(mounts, state, &room).or_else(|| full(state, &room)) {
            findings.problem(trouble);
        }
    }
    limits(getrlimit(Resource::Fsize), getrlimit(Resource::Nofile), findings);
}

fn read_only(mounts: &Mounts, state: &Path, room: &StatVfs) -> Option<Trouble> {
    if !room.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return None;
    }
    let real = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    let point = mounts.of(&real).map_or_else(|| "/".into(), |mount| mount.point.display().to_string());
    let message = format!(
        "{}: its file system is mounted read-only, so nothing can be booked and no run starts; \
         `mount -o remount,rw {point}`, or name another state directory",
        state.display()
    );
    Some(Trouble::new("read_only", message).path(state))
}

fn full(state: &Path, room: &StatVfs) -> Option<Trouble> {
    let bytes = room.f_bavail.saturating_mul(room.f_frsize);
    let (few, left) = match (bytes, room.f_favail) {
        (bytes, _) if bytes < FEW_BYTES => ("bytes", bytes),
        // (A file system that counts no inodes has none.)
        (_, inodes) if room.f_files > 0 && inodes < FEW_INODES => ("inodes", inodes),
        _ => return None,
    };
    let message = format!(
        "{}: {left} {few} are left on its file system; no run starts that cannot be recorded: free some, or lower keep_runs",
        state.display()
    );
    Some(Trouble::new("no_room", message).path(state).with("left", left).with("of", few))
}

fn limits(size: Rlimit, files: Rlimit, findings: &mut Findings) {
    if let Some(size) = size.current.filter(|size| *size < FEW_BYTES) {
        findings.note(format!(
            "this shell's files may have {size} bytes (ulimit -f); a ledger or log that reaches that fails; raise it"
        ));
    }
    if let Some(files) = files.current.filter(|files| *files < FEW_DESCRIPTORS) {
        findings.note(format!(
            "this shell's processes may open {files} files (ulimit -n); raise it to {FEW_DESCRIPTORS} or more"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_told_from_enough() {
        let state = Path::new("/s");
        let mut room = rustix::fs::statvfs("/").unwrap();
        (room.f_frsize, room.f_bavail, room.f_files, room.f_favail) = (4096, 1 << 20, 1000, 500);
        assert!(full(state, &room).is_none());
        room.f_favail = 3;
        assert_eq!(full(state, &room).unwrap().details["of"], "inodes");
        room.f_files = 0;
        assert!(full(state, &room).is_none());
        room.f_bavail = 100;
        let trouble = full(state, &room).unwrap();
        assert_eq!((trouble.details["of"].clone(), trouble.details["left"].clone()), ("bytes".into(), 409_600.into()));
    }

    #[test]
    fn a_narrow_limit_is_noted() {
        let notes = |size, files| {
            let mut findings = Findings::default();
            let limit = |current| Rlimit { current, maximum: None };
            limits(limit(size), limit(files), &mut findings);
            findings.notes.len()
        };
        assert_eq!([notes(None, Some(1024)), notes(Some(1 << 20), Some(1024)), notes(Some(1), Some(8))], [0, 1, 2]);
    }
}
