//! What is mounted where, as `/proc/self/mountinfo` tells (proc(5)). The file systems themselves are not asked: one
//! whose server is gone would have us wait.

use std::path::{Path, PathBuf};

use super::findings::{Findings, Trouble};

/// File systems whose locks other hosts, or the server, may not see.
const NETWORK: [&str; 14] = [
    "9p",
    "afs",
    "ceph",
    "cifs",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.sshfs",
    "glusterfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
    "virtiofs",
];

/// The mounts of this mount namespace, in the order in which they were made.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounts(Vec<Mount>);

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    /// `ext4`, `nfs4` …
    pub(super) kind: String,
}

impl Mounts {
    pub(super) fn parse(mountinfo: &str) -> Self {
        let mount = |line: &str| {
            let mut fields = line.split(' ');
            let point = unescaped(fields.nth(4)?);
            let kind = fields.skip_while(|field| *field != "-").nth(1)?.to_owned();
            Some(Mount { point, kind })
        };
        Self(mountinfo.lines().filter_map(mount).collect())
    }

    /// The mount that a path lies on.
    pub(super) fn of(&self, path: &Path) -> Option<&Mount> {
        // Of several on one point, the last one is seen; `max_by_key` gives the last of equals.
        self.0.iter().filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.as_os_str().len())
    }

    /// Mounts within a directory, at most three levels down: a job's files are no deeper.
    pub(super) fn within(&self, directory: &Path) -> Vec<&Mount> {
        let depth = |mount: &Mount| mount.point.strip_prefix(directory).map_or(0, |below| below.components().count());
        let mut found: Vec<_> = self.0.iter().filter(|mount| (1..=3).contains(&depth(mount))).collect();
        found.dedup_by(|one, other| one.point == other.point);
        found
    }
}

impl Mount {
    pub(super) fn is_network(&self) -> bool {
        NETWORK.contains(&self.kind.as_str())
    }
}

/// A mount within the state directory is seen by some and not by others: in a unit's own mount namespace, in a container,
/// before it is mounted. Whoever does not see it locks the files below.
pub(super) fn examine(mounts: &Mounts, state: &Path, findings: &mut Findings) {
    for mount in mounts.within(state) {
        let message = format!(
            "{}: is a mount of its own ({}) within the state directory; who does not see it locks other files: two locks; \
             unmount it, or mount all of {}",
            mount.point.display(),
            mount.kind,
            state.display()
        );
        findings.problem(Trouble::new("separate_mount", message).path(&mount.point));
    }
}

/// Blanks and the like are written as `\040`.
fn unescaped(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_on_the_nearest_mount() {
        let mounts = Mounts::parse(
            "22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 0:40 / /srv/a\\040b rw shared:1 - nfs4 host:/x rw\n\
             31 22 0:41 / /s/jobs rw - overlay none rw\nnoise\n32 22 0:42 / /s/a/b/c/d rw - tmpfs none rw\n",
        );
        assert_eq!(mounts.of(Path::new("/srv/a b/c")).unwrap().kind, "nfs4");
        assert!(mounts.of(Path::new("/srv/a b/c")).unwrap().is_network());
        assert_eq!(mounts.of(Path::new("/srv/a")).unwrap().kind, "ext4");
        let within: Vec<_> = mounts.within(Path::new("/s")).into_iter().map(|mount| mount.point.clone()).collect();
        assert_eq!(within, [Path::new("/s/jobs")]);
        assert!(Mounts::default().of(Path::new("/")).is_none());
    }
}
