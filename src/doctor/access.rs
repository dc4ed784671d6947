//! Whether everybody who shares the state directory can write there: this user, and of a shared directory the members of
//! its group. Files get their modes whatever the umask is, so one that lacks them was copied, restored or chowned by hand.

use std::{
    fs::{self, Metadata},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, AtFlags, CWD};

use super::findings::{Findings, Trouble};

/// So many files are looked at.
const MOST: usize = 100_000;

/// What is wrong with a file, and how many have it.
#[derive(Default)]
struct Kind {
    count: usize,
    first: PathBuf,
}

pub(super) fn examine(state: &Path, is_shared: bool, findings: &mut Findings) {
    let Ok(root) = fs::metadata(state) else { return };
    let (mut closed, mut foreign) = (Kind::default(), Kind::default());
    let own = [state.to_owned()];
    let directories = own.into_iter().chain(["trips", "jobs", "locks", "files"].map(|name| state.join(name)));
    let mut left = MOST;
    for directory in directories {
        let Ok(metadata) = fs::symlink_metadata(&directory) else { continue };
        look(&directory, &metadata, &root, is_shared, &mut closed, &mut foreign);
        if directory == state {
            continue;
        }
        for entry in fs::read_dir(&directory).into_iter().flatten().take(left) {
            left = left.saturating_sub(1);
            let Ok(entry) = entry else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            // Logs are read by members and written by one run; what is no file is said elsewhere.
            if metadata.is_file() {
                look(&entry.path(), &metadata, &root, is_shared, &mut closed, &mut foreign);
            }
        }
    }
    let what = |kind: &Kind| match kind.count {
        1 => format!("{} is", kind.first.display()),
        count => format!("{} and {} more are", kind.first.display(), count - 1),
    };
    if closed.count > 0 {
        let user = rustix::process::geteuid().as_raw();
        let dir = state.display();
        let open = if is_shared {
            let gid = root.gid();
            format!("chgrp -R {gid} {dir} && chmod -R u+rwX,g+rwX {dir}; and user {user} must be in that group")
        } else {
            format!("chmod -R u+rwX {dir}")
        };
        let message = format!(
            "{} not writable for user {user}, so whatever needs it fails; run as its owner, or as root: {open}",
            what(&closed),
        );
        findings.problem(Trouble::new("not_writable", message).path(&closed.first).with("files", closed.count));
    }
    if foreign.count > 0 {
        let dir = state.display();
        let message = if is_shared {
            format!(
                "{} not open to the group that shares {dir}, so its members fail; as root: chgrp -R {} {dir} && chmod -R g+rwX \
                 {dir}",
                what(&foreign),
                root.gid()
            )
        } else {
            format!(
                "{} of another user than {dir}, whose owner may not write there; as root: chown -R {} {dir}",
                what(&foreign),
                root.uid()
            )
        };
        findings.problem(Trouble::new("wrong_owner", message).path(&foreign.first).with("files", foreign.count));
    }
}

fn look(path: &Path, metadata: &Metadata, root: &Metadata, is_shared: bool, closed: &mut Kind, foreign: &mut Kind) {
    let add = |kind: &mut Kind| {
        kind.count += 1;
        if kind.count == 1 {
            path.clone_into(&mut kind.first);
        }
    };
    let mode = metadata.permissions().mode();
    let is_open = if is_shared {
        let wanted = if metadata.is_dir() { 0o070 } else { 0o060 };
        mode & wanted == wanted && metadata.gid() == root.gid()
    } else {
        metadata.uid() == root.uid()
    };
    // First: the modes that would open it to this user open nothing that is somebody else's.
    if !is_open {
        return add(foreign);
    }
    let needed = Access::READ_OK | Access::WRITE_OK;
    if rustix::fs::accessat(CWD, path, needed, AtFlags::EACCESS) == Err(rustix::io::Errno::ACCESS) {
        add(closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examined(state: &Path, is_shared: bool) -> Vec<String> {
        let mut findings = Findings::default();
        examine(state, is_shared, &mut findings);
        findings.problems.iter().map(ToString::to_string).collect()
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_a_member_cannot_write_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = dir.path().join("jobs");
        fs::create_dir(&jobs).unwrap();
        for path in [dir.path(), &jobs] {
            set(path, 0o2770);
        }
        for name in ["a.lock", "a.jsonl", "b.lock"] {
            fs::write(jobs.join(name), "").unwrap();
            set(&jobs.join(name), 0o660);
        }
        assert_eq!(examined(dir.path(), true), Vec::<String>::new());
        // The umask's work.
        set(&jobs.join("a.lock"), 0o640);
        let [said] = &examined(dir.path(), true)[..] else { panic!("nothing was said") };
        assert!(said.contains("jobs/a.lock is not open to the group") && said.contains("chmod -R g+rwX"), "{said}");
        // In a private directory the group is nobody.
        assert_eq!(examined(dir.path(), false), Vec::<String>::new());
        // A group of its own, where only root can have made it.
        if rustix::process::geteuid().is_root() {
            set(&jobs.join("a.lock"), 0o660);
            rustix::fs::chown(jobs.join("a.lock"), None, Some(rustix::fs::Gid::from_raw(12_345))).unwrap();
            let [said] = &examined(dir.path(), true)[..] else { panic!("nothing was said") };
            assert!(said.contains("jobs/a.lock is not open to the group"), "{said}");
            rustix::fs::chown(jobs.join("a.lock"), None, Some(rustix::process::getegid())).unwrap();
        }
        // Without x its files cannot be reached.
        set(&jobs.join("a.lock"), 0o660);
        set(&jobs, 0o2760);
        let [said] = &examined(dir.path(), true)[..] else { panic!("nothing was said") };
        assert!(said.contains("/jobs is not open"), "{said}");
        set(&jobs.join("a.lock"), 0o640);
        set(&jobs, 0o700);
        let [said] = &examined(dir.path(), true)[..] else { panic!("nothing was said") };
        assert!(said.contains("/jobs and 1 more are not open"), "{said}");
    }

    #[test]
    fn a_file_that_this_user_cannot_write_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = dir.path().join("jobs");
        fs::create_dir(&jobs).unwrap();
        fs::write(jobs.join("a.lock"), "").unwrap();
        if rustix::process::geteuid().is_root() {
            // Root may write everywhere; somebody else's file is what it finds.
            rustix::fs::chown(jobs.join("a.lock"), Some(rustix::fs::Uid::from_raw(12_345)), None).unwrap();
            let [said] = &examined(dir.path(), false)[..] else { panic!("nothing was said") };
            assert!(said.contains("a.lock is of another user") && said.contains("chown -R 0 "), "{said}");
        } else {
            set(&jobs.join("a.lock"), 0o400);
            let [said] = &examined(dir.path(), false)[..] else { panic!("nothing was said") };
            assert!(said.contains("a.lock is not writable for user"), "{said}");
        }
    }
}
