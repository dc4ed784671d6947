//! The machine that is looked at: its root directory, its users, its mounts, what could not be read.

use std::{
    cell::RefCell,
    ffi::OsStr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    findings::Findings,
    mounts::Mounts,
    read::{self, Read},
};
use crate::dir::{Environment, FileId};

/// A machine, or what lies below a directory as if it were one.
#[derive(Debug)]
pub(super) struct Machine {
    root: PathBuf,
    /// Who looks.
    pub(super) me: User,
    /// What this shell has.
    pub(super) environment: Environment,
    pub(super) users: Vec<User>,
    /// Other sources than `/etc/passwd` may know further users.
    pub(super) has_other_users: bool,
    pub(super) mounts: Mounts,
    unread: RefCell<Vec<(PathBuf, String)>>,
}

/// A user, as `/etc/passwd` knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    /// `None`: of a name that nobody here knows.
    pub(super) uid: Option<u32>,
    pub(super) home: Option<PathBuf>,
}

impl User {
    pub(super) fn is_root(&self) -> bool {
        self.uid == Some(0)
    }
}

impl Machine {
    pub(super) fn new(root: Option<&Path>, environment: &Environment) -> Self {
        let root = root.unwrap_or(Path::new("/")).to_owned();
        let mut machine = Self {
            root,
            me: User::default(),
            environment: environment.clone(),
            users: Vec::new(),
            has_other_users: false,
            mounts: Mounts::default(),
            unread: RefCell::default(),
        };
        machine.users = users(&machine.text("/etc/passwd").unwrap_or_default());
        machine.has_other_users = has_other_users(&machine.text("/etc/nsswitch.conf").unwrap_or_default());
        machine.mounts = Mounts::parse(&machine.text("/proc/self/mountinfo").unwrap_or_default());
        let uid = rustix::process::geteuid().as_raw();
        let home = environment.home.clone().map(PathBuf::from);
        let known = machine.users.iter().find(|user| user.uid == Some(uid));
        machine.me = known.cloned().unwrap_or(User { name: uid.to_string(), uid: Some(uid), home });
        machine
    }

    /// Where that path is, seen from here.
    pub(super) fn at(&self, path: impl AsRef<OsStr>) -> PathBuf {
        read::below(&self.root, path)
    }

    /// Whether it is the machine that this process runs on.
    pub(super) fn is_this_one(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A file's text; one that is there and cannot be read is remembered.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        match self.read(path.as_ref()) {
            Read::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn read(&self, path: &Path) -> Read {
        let found = read::file(&self.at(path));
        if let Read::Unreadable(why) = &found {
            self.unread.borrow_mut().push((path.to_owned(), why.clone()));
        }
        found
    }

    /// The names in a directory, in byte order.
    pub(super) fn names(&self, directory: impl AsRef<Path>) -> Vec<String> {
        let directory = directory.as_ref();
        read::names(&self.at(directory)).unwrap_or_else(|why| {
            self.unread.borrow_mut().push((directory.to_owned(), why));
            Vec::new()
        })
    }

    /// What is not looked at any further.
    pub(super) fn leave(&self, path: &Path, why: String) {
        self.unread.borrow_mut().push((path.to_owned(), why));
    }

    /// What is there and could not be read is a note: it may or may not matter.
    pub(super) fn say_unread(&self, findings: &mut Findings) {
        let unread = self.unread.take();
        // To an ordinary user some of it is closed, as it should be.
        let is_closed = |path: &Path| !self.me.is_root() && path.starts_with("/var/spool");
        let unread: Vec<_> = unread.into_iter().filter(|(path, _)| !is_closed(path)).collect();
        let Some((path, why)) = unread.first() else { return };
        let more = match unread.len() {
            1 => String::new(),
            several => format!(", and {} more", several - 1),
        };
        findings.note(format!("{}: could not be looked at: {why}{more}; what it starts is not known", path.display()));
    }

    /// The user of that name or number.
    pub(super) fn user(&self, name: &str) -> User {
        let number = name.parse::<u32>().ok();
        let known = self.users.iter().find(|user| user.name == name || number.is_some() && user.uid == number);
        known.cloned().unwrap_or(User { name: name.to_owned(), uid: number, home: None })
    }

    /// A program as `execvp(3)` would find it with that `PATH`.
    pub(super) fn finds(&self, program: &str, path: &str) -> bool {
        if program.contains('/') {
            return self.is_program(Path::new(program));
        }
        path.split(':')
            .any(|directory| directory.starts_with('/') && self.is_program(&Path::new(directory).join(program)))
    }

    /// Whether it is there and some user may execute it. Where that cannot be seen, it is.
    pub(super) fn is_program(&self, path: &Path) -> bool {
        if path.is_relative() {
            // From a directory that is not known.
            return true;
        }
        match std::fs::metadata(self.at(path)) {
            Ok(metadata) => metadata.is_file() && metadata.permissions().mode() & 0o111 != 0,
            // (An absolute link below another root leads elsewhere.)
            Err(_) if !self.is_this_one() => std::fs::symlink_metadata(self.at(path)).is_ok(),
            Err(e) => e.kind() == std::io::ErrorKind::PermissionDenied,
        }
    }

    /// Which file or directory a path means.
    pub(super) fn id(&self, path: &Path) -> Option<FileId> {
        let metadata = std::fs::metadata(self.at(path)).ok()?;
        Some(FileId { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Whether this process would find that program. Where a path leads cannot always be seen: another user may get there.
pub(super) fn finds_here(program: &str, path: &OsStr) -> bool {
    let is_program = |path: &Path, unseen: bool| match std::fs::metadata(path) {
        Ok(found) => found.is_file() && found.permissions().mode() & 0o111 != 0,
        Err(e) => unseen && e.kind() == std::io::ErrorKind::PermissionDenied,
    };
    if program.contains('/') {
        return is_program(Path::new(program), true);
    }
    std::env::split_paths(path).any(|directory| is_program(&directory.join(program), false))
}

fn users(passwd: &str) -> Vec<User> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['+', '-', '#']))?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let home = fields.nth(2).filter(|home| home.starts_with('/')).map(PathBuf::from);
        Some(User { name, uid: Some(uid), home })
    };
    passwd.lines().filter_map(user).collect()
}

/// Whether names are looked up elsewhere too, such as in LDAP. (systemd's source knows root and nobody, and units' dynamic
/// users.)
fn has_other_users(nsswitch: &str) -> bool {
    let passwd = nsswitch.lines().find_map(|line| line.trim_start().strip_prefix("passwd:"));
    let sources = passwd.unwrap_or("files").split('#').next().unwrap_or_default();
    sources
        .split_ascii_whitespace()
        .any(|word| !["files", "compat", "systemd"].contains(&word) && !word.starts_with('['))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_as_the_c_library_does() {
        let found =
            users("root:x:0:0:root:/root:/bin/sh\n#a:x:1:1::/:\n\nbob:x:1000:1000::/home/bob:/bin/sh\nbad\n+::::::\n");
        assert_eq!(found.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["root", "bob"]);
        assert_eq!((found[1].uid, found[1].home.as_deref()), (Some(1000), Some(Path::new("/home/bob"))));
        assert!(found[0].is_root());
        assert!(!has_other_users("") && !has_other_users("passwd: files systemd [NOTFOUND=return]\n"));
        assert!(has_other_users("group: files\npasswd:\tfiles sss # x\n"));
    }

    #[test]
    fn a_program_is_found_in_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::new(Some(dir.path()), &Environment::default());
        let bin = dir.path().join("usr/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("x"), "").unwrap();
        let set = |mode| std::fs::set_permissions(bin.join("x"), std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o644);
        assert!(!machine.finds("x", "/usr/bin:/bin") && !machine.finds("/usr/bin/x", ""));
        set(0o755);
        assert!(machine.finds("x", "/bin:/usr/bin") && machine.finds("/usr/bin/x", "") && machine.finds("./y", ""));
        assert!(!machine.finds("x", "/bin") && !machine.finds("/usr/bin", ""));
    }
}
