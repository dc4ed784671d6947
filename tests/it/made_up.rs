//! A machine that is made up: a tree with an `/etc`, crontabs and units, below a temporary directory, for `doctor` to
//! look at.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    machine,
    sandbox::{Finished, Invocation, Sandbox},
};

pub(crate) const UNITS: &str = "/etc/systemd/system";

/// A machine below a directory.
pub(crate) struct Tree {
    pub(crate) sandbox: Sandbox,
}

impl Tree {
    /// One on which triplock is installed and nothing is scheduled.
    pub(crate) fn new() -> Self {
        let tree = Self { sandbox: Sandbox::new() };
        // Whoever runs the tests is alice, or root.
        let (me, alice) = (rustix::process::geteuid().as_raw(), if machine::is_root() { 1000 } else { uid() });
        let passwd = format!(
            "root:x:0:0:root:/root:/bin/sh\nalice:x:{alice}:1000::/home/alice:/bin/sh\nbob:x:60123:60123::/home/bob:/bin/sh\n"
        );
        assert!(me == 0 || me == alice);
        tree.with("/etc/passwd", &passwd).program("/usr/bin/triplock")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.sandbox.path("root")
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// With a file.
    pub(crate) fn with(self, path: &str, text: &str) -> Self {
        self.write(path, text.as_bytes());
        self
    }

    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        let full = self.path(path);
        let mut above: Vec<_> = full.ancestors().skip(1).take_while(|dir| dir.starts_with(self.root())).collect();
        above.reverse();
        for dir in above {
            if !dir.exists() {
                fs::create_dir(dir).unwrap();
                mode(dir, 0o755);
            }
        }
        fs::write(&full, bytes).unwrap();
        mode(&full, 0o644);
    }

    pub(crate) fn program(self, path: &str) -> Self {
        let tree = self.with(path, "");
        mode(&tree.path(path), 0o755);
        tree
    }

    /// With a line in /etc/cron.d, after these environment lines.
    pub(crate) fn cron(self, above: &str, line: &str) -> Self {
        let text = format!("{above}\n* * * * * {line}\n");
        self.with("/etc/cron.d/x", &text)
    }

    /// With a service of these settings, started by a timer of its name.
    pub(crate) fn service(self, name: &str, settings: &str) -> Self {
        self.with(&format!("{UNITS}/{name}"), &format!("[Service]\n{settings}\n"))
    }

    /// With a job file of the machine.
    pub(crate) fn job(self, text: &str) -> Self {
        self.with("/etc/triplock/jobs.d/jobs.toml", text)
    }

    pub(crate) fn doctor(&self) -> Invocation {
        let root = self.root();
        self.sandbox.triplock(["doctor", "--root", root.to_str().unwrap()]).under([
            "env",
            "-u",
            "XDG_CONFIG_HOME",
            "HOME=/none/such",
        ])
    }

    pub(crate) fn examined(&self) -> Found {
        Found::of(self.doctor().run())
    }

    /// It finds exactly one problem: that word, and a message with all those fragments.
    #[track_caller]
    pub(crate) fn has(&self, word: &str, fragments: &[&str]) -> Value {
        let found = self.examined();
        let [problem] = &found.problems[..] else { panic!("expected one {word}, not {found:#?}") };
        assert_eq!(problem["problem"], word, "{found:#?}");
        let message = problem["message"].as_str().unwrap();
        for fragment in fragments {
            assert!(message.contains(fragment), "no {fragment:?} in {message:?}");
        }
        assert!(!message.contains('\n'), "{message:?}");
        assert_eq!(found.finished.code(), Some(78));
        problem.clone()
    }

    #[track_caller]
    pub(crate) fn is_well(&self) -> Found {
        let found = self.examined();
        assert!(found.problems.is_empty() && found.finished.code() == Some(0), "{found:#?}");
        found
    }
}

/// What was printed.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) problems: Vec<Value>,
    pub(crate) notes: Vec<String>,
    pub(crate) looked_at: Value,
    pub(crate) finished: Finished,
}

impl Found {
    #[track_caller]
    pub(crate) fn of(finished: Finished) -> Self {
        let lines: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let notes = lines.iter().filter_map(|line| Some(line["note"].as_str()?.to_owned()));
        // That there is no state directory is no finding.
        let notes = notes.filter(|note| !note.contains("is not there yet")).collect();
        let problems = lines.iter().filter(|line| line["problem"].is_string()).cloned().collect();
        let looked_at = lines.last().expect("a summary")["looked_at"].clone();
        assert!(looked_at.is_object() && finished.stderr.is_empty(), "{finished:?}");
        Self { problems, notes, looked_at, finished }
    }
}

pub(crate) fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

pub(crate) fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) const HERE: &str = "TRIPLOCK_STATE_DIR=/s";

/// Files of the machine are root's, or nobody else trusts them.
pub(crate) fn may_be_the_machine(test: &str) -> bool {
    if !machine::is_root() {
        machine::skip(test, "needs root: the machine's files must be root's");
    }
    machine::is_root()
}
