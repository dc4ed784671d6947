//! A Debian with nothing in it but what every Debian has, to install a package in.
//!
//! debootstrap makes one (a minute, once for a target directory); each test gets a copy. What runs in it has the copy as
//! its root, mounts and processes of its own, and none of this machine's environment, and ends with its command.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use tempfile::TempDir;

use crate::{machine, turn::Turn};

/// Such a root.
#[derive(Debug)]
pub(crate) struct CleanRoot {
    dir: TempDir,
    _turn: Turn,
}

impl CleanRoot {
    /// `None`, said out loud, where there can be none.
    #[track_caller]
    pub(crate) fn new(test: &str) -> Option<Self> {
        static ORIGINAL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        if !machine::is_root() {
            machine::skip(test, "needs root, for a root directory of its own");
            return None;
        }
        if !machine::has(test, &["debootstrap", "unshare", "chroot", "mount"]) {
            return None;
        }
        // One that was built on another machine may want a newer C library than the root has.
        let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let value =
            |key: &str| system.lines().find_map(|line| line.strip_prefix(key)).map(|word| word.trim_matches('"'));
        let (Some("debian"), Some(suite)) = (value("ID="), value("VERSION_CODENAME=")) else {
            machine::skip(test, "needs Debian: the root is of the same release as this machine");
            return None;
        };
        let turn = Turn::shared();
        match ORIGINAL.get_or_init(|| original(suite)) {
            Err(why) => {
                machine::skip(test, why);
                None
            }
            Ok(original) => {
                let dir =
                    tempfile::Builder::new().prefix("triplock-root-").tempdir().expect("make a temporary directory");
                let copied = Command::new("cp").arg("-a").arg(original.join(".")).arg(dir.path()).status();
                assert!(copied.expect("start cp").success(), "copy the clean root");
                Some(Self { dir, _turn: turn })
            }
        }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    /// A shell script's end and what it printed.
    pub(crate) fn sh(&self, script: &str) -> Output {
        let into =
            r#"mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && exec chroot "$1" /bin/sh -ec "$2""#;
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", into, "sh"])
            .arg(self.dir.path())
            .arg(script)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .output()
            .expect("start unshare")
    }

    /// What it printed on stdout; it succeeds.
    #[track_caller]
    pub(crate) fn does(&self, script: &str) -> String {
        let Output { status, stdout, stderr } = self.sh(script);
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{script}\n{status}\nstdout: {stdout}\nstderr: {stderr}");
        stdout.into_owned()
    }

    /// The name of every file, but for what dpkg and the group database note down for themselves.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let own = ["/var/lib/dpkg/", "/var/log/", "/etc/group-", "/etc/gshadow-", "/etc/.pwd.lock"];
        let all = self.does("find / -xdev");
        all.lines().filter(|name| !own.iter().any(|own| name.starts_with(own))).map(str::to_owned).collect()
    }
}

/// The one that is copied, made when it is not there.
fn original(suite: &str) -> Result<PathBuf, String> {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("debian-{suite}-minbase"));
    if made.is_dir() {
        return Ok(made);
    }
    // In one step, so that nobody copies half of one.
    let name = format!(".debian-{suite}-minbase.{}", std::process::id());
    let fresh = made.with_file_name(name);
    let path = env::var("PATH").unwrap_or_default();
    let done = Command::new("debootstrap")
        .args(["--variant=minbase", suite])
        .arg(&fresh)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .expect("start debootstrap");
    let renamed = done.status.success() && fs::rename(&fresh, &made).is_ok();
    if !renamed {
        let _ = fs::remove_dir_all(&fresh);
    }
    if made.is_dir() {
        return Ok(made);
    }
    let said = String::from_utf8_lossy(&done.stdout);
    Err(format!("debootstrap cannot make a clean root: {}", said.lines().last().unwrap_or("no reason given")))
}
