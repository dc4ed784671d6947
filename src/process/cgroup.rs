//! A control group for one job, where one can be had: the only certain way to end everything that the job started.
//!
//! A process is born into its parent's group and stays there, whatever it does about sessions, process groups or parents;
//! writing to `cgroup.kill` (Linux 5.14) ends all members at once, without racing their forks (the kernel's
//! `admin-guide/cgroup-v2.rst`). Only a job with the right to write elsewhere in the hierarchy can move out, so root's can;
//! those are left to the sweeps (see [`super::tree`]).
//!
//! A hierarchy has one writer. Below systemd that is systemd, which may rearrange any group that it has not delegated
//! (<https://systemd.io/CGROUP_DELEGATION>), so a group is made only below one that is marked as delegated to us, or where
//! no systemd runs.
//!
//! A group outlives a killed wrapper, and can be removed only when it is empty: the next one to make a group removes what
//! dead wrappers left.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use super::{table::info, wait_for};

/// How the groups are called: this, a name, and the pid of who made it.
const PREFIX: &str = "triplock-";

/// A control group of our own. Dropping it removes it, unless somebody is left in it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    procs: File,
}

impl Cgroup {
    /// Makes one; `None` where none can be had.
    pub(crate) fn try_make(name: &str) -> Option<Self> {
        let parent = own_directory()?;
        if !may_write(&parent) {
            return None;
        }
        remove_litter(&parent);
        Self::make(parent.join(format!("{PREFIX}{name}-{}", std::process::id()))).ok()
    }

    fn make(path: PathBuf) -> io::Result<Self> {
        match fs::create_dir(&path) {
            // Of an earlier attempt of this very process; whoever is left in it is no business of the new one.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir(&path)?;
                fs::create_dir(&path)?;
            }
            made => made?,
        }
        let usable = || {
            fs::metadata(path.join("cgroup.kill"))?;
            OpenOptions::new().write(true).open(path.join("cgroup.procs"))
        };
        match usable() {
            Ok(procs) => Ok(Self { path, procs }),
            Err(e) => {
                fs::remove_dir(&path)?;
                Err(e)
            }
        }
    }

    /// Where a new process writes itself in: for [`super::Spawn`].
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }

    /// Its directory.
    #[cfg(test)]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sends KILL to every member, of groups below too.
    pub(super) fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Waits until nobody runs in it; `false` when that takes longer. (Zombies have left it.)
    pub(super) fn wait_until_empty(&self, patience: Duration) -> io::Result<bool> {
        let until = Instant::now() + patience;
        let mut events = File::open(self.path.join("cgroup.events"))?;
        loop {
            // Read before the sleep, so that a change in between ends it.
            events.rewind()?;
            let mut text = String::new();
            events.read_to_string(&mut text)?;
            if text.lines().any(|line| line == "populated 0") {
                return Ok(true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            wait_for(&mut [PollFd::new(&events, PollFlags::PRI)], Some(left))?;
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_tree(&self.path);
    }
}

/// Removes a group and those that the job made below it, as far as they are empty.
fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // What is not empty says EBUSY, and stays.
    let _ = fs::remove_dir(path);
}

/// Removes the empty groups of wrappers that are no more.
fn remove_litter(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.rsplit_once('-')?.1.parse().ok());
        if maker.is_some_and(|pid: u32| info(pid).is_none()) {
            remove_tree(&entry.path());
        }
    }
}

/// Whether it is ours to arrange. (Whether the kernel lets us is found out by trying.)
fn may_write(group: &Path) -> bool {
    let is_delegated = ["user.delegate", "trusted.delegate"].iter().any(|attribute| {
        let mut value = [0; 8];
        rustix::fs::getxattr(group, *attribute, &mut value).is_ok_and(|size| value.get(..size) == Some(b"1"))
    });
    is_delegated || !Path::new("/run/systemd/system").exists()
}

/// The directory of the group that we are in, in the unified hierarchy.
fn own_directory() -> Option<PathBuf> {
    let own = fs::read("/proc/self/cgroup").ok()?;
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    directory(&own, &mounts)
}

/// Finds it from `/proc/self/cgroup` and `/proc/self/mountinfo`: the path is counted from the hierarchy's root, and a mount
/// may show a part of the hierarchy only.
fn directory(own: &[u8], mounts: &[u8]) -> Option<PathBuf> {
    let own = own.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    let own = Path::new(std::ffi::OsStr::from_bytes(own));
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, mount_point) = (fields.nth(3)?, fields.next()?);
        // Optional fields, a hyphen, then the type.
        fields.find(|field| *field == b"-")?;
        if fields.next()? != b"cgroup2" {
            return None;
        }
        let below = own.strip_prefix(unescape(root)).ok()?;
        // Outside of our cgroup namespace, the path climbs.
        let is_plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        is_plain.then(|| PathBuf::from(unescape(mount_point)).join(below))
    })
}

/// Undoes what mountinfo does to blanks, tabs, line ends and backslashes: `\040`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_group_is_found_in_every_layout() {
        let found = |own: &str, mounts: &str| directory(own.as_bytes(), mounts.as_bytes());
        let unified =
            "25 1 0:23 / /proc rw - proc proc rw\n30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(found("0::/user.slice/a\n", unified), Some("/sys/fs/cgroup/user.slice/a".into()));
        assert_eq!(found("0::/\n", unified), Some("/sys/fs/cgroup/".into()));
        assert_eq!(found("0::/../other\n", unified), None);
        let hybrid = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(found("8:pids:/x\n0::/y\n", hybrid), Some("/sys/fs/cgroup/unified/y".into()));
        let part = "41 31 0:38 /docker/1 /a\\040b rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found("0::/docker/1/job\n", part), Some("/a b/job".into()));
        assert_eq!(found("0::/docker/2\n", part), None);
        assert_eq!(found("8:pids:/x\n", hybrid), None, "no unified hierarchy");
        assert_eq!(found("0::/\n", ""), None);
    }
}
