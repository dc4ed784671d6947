//! A real systemd as process 1 of a throw-away machine: an overlay of `/`, in a control group and namespaces of its own,
//! with triplock and its units where a package would put them. What is written in it stays until it is dropped, through
//! [`SystemdBox::power_off`] and [`SystemdBox::kill`], so it can be booted again.
//!
//! Nothing of it outlives the test, however that ends: a process of its own (`keep.sh`) waits for that, kills what is in
//! the control group, and removes all there was.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    machine,
    mount::FORGET_DISKS,
    sandbox::{Invocation, TRIPLOCK, eventually},
    turn::Turn,
};

const KEEP: &str = include_str!("systemd_box/keep.sh");
const BOOT: &str = include_str!("systemd_box/boot.sh");

/// The units as they are packaged.
pub(crate) const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");

/// Enters the control group of commands, and then the namespaces of process 1.
const ENTER: &str = r#"echo 0 >"$1/commands/cgroup.procs" && target=$2 && shift 2 &&
    exec nsenter -t "$target" -m -u -i -n -p -C -r -w -- "$@""#;

/// The machine, switched on or off.
#[derive(Debug)]
pub(crate) struct SystemdBox {
    keeper: Child,
    /// Where `keep.sh` has made it, in its mount namespace.
    directory: PathBuf,
    group: PathBuf,
    running: Option<Machine>,
    _turn: Turn,
}

/// While it is on.
#[derive(Debug)]
struct Machine {
    /// The process that waits for process 1.
    parent: Child,
    init: u32,
}

impl SystemdBox {
    /// One that is switched off; `None`, said out loud, where there can be none.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !machine::is_root() {
            machine::skip(test, "needs root, to boot a systemd");
            return None;
        }
        if !Path::new("/lib/systemd/systemd").exists() {
            machine::skip(test, "not installed: systemd");
            return None;
        }
        if !machine::has(test, &["unshare", "nsenter", "pivot_root", "setpriv", "systemctl", "journalctl", "useradd"]) {
            return None;
        }
        let turn = Turn::shared();
        let keep = format!("{FORGET_DISKS}{KEEP}");
        let mut keeper = Command::new("setsid")
            .args(["unshare", "--mount", "--propagation", "private", "bash", "-c", &keep, "keep.sh", TRIPLOCK, UNITS])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start setsid");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("piped")).read_line(&mut line).expect("read the keeper's answer");
        let Some((directory, group)) = line.trim_end().split_once(' ') else {
            let mut why = String::new();
            keeper.stderr.take().expect("piped").read_to_string(&mut why).expect("read the keeper's complaint");
            keeper.wait().expect("wait for the keeper");
            machine::skip(test, &format!("no machine for a systemd can be made here: {}", why.trim()));
            return None;
        };
        let (directory, group) = (directory.into(), group.into());
        Some(Self { keeper, directory, group, running: None, _turn: turn })
    }

    /// One that is on.
    pub(crate) fn booted(test: &str) -> Option<Self> {
        let mut machine = Self::new(test)?;
        machine.boot();
        Some(machine)
    }

    /// Switches it on, and waits until systemd has started everything.
    #[track_caller]
    pub(crate) fn boot(&mut self) {
        assert!(self.running.is_none(), "it is on already");
        self.remove_groups();
        fs::create_dir(self.group.join("commands")).expect("make a control group");
        let console = self.kept("console");
        let console = File::options().append(true).create(true).open(&console).expect("open the console's file");
        let script = r#"echo 0 >"$1/cgroup.procs" && exec nsenter -t "$2" -m -- unshare --pid --mount --uts --ipc --net \
            --cgroup --fork --kill-child=KILL --propagation private bash -c "$3" boot.sh "$4/root""#;
        let parent = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&self.group)
            .arg(self.keeper.id().to_string())
            .arg(BOOT)
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("dup"))
            .stderr(console)
            .spawn()
            .expect("start sh");
        let children = format!("/proc/{0}/task/{0}/children", parent.id());
        self.running = Some(Machine { parent, init: 0 });
        eventually("there is a process 1", || {
            self.fail_if_off();
            let child = fs::read_to_string(&children).unwrap_or_default();
            let machine = self.running.as_mut().expect("on");
            machine.init = child.trim().parse().unwrap_or_default();
            machine.init != 0
        });
        eventually("systemd is up", || {
            self.fail_if_off();
            let state = self.systemctl(["is-system-running"]).run();
            ["running\n", "degraded\n"].contains(&&*state.stdout)
        });
    }

    /// Boots would go on for ever where one fails at once.
    #[track_caller]
    fn fail_if_off(&mut self) {
        let machine = self.running.as_mut().expect("switched on");
        if let Some(status) = machine.parent.try_wait().expect("wait for our own child") {
            panic!("it went off ({status}); its console:\n{}", self.console());
        }
    }

    /// Switches it off as one does: systemd stops what runs.
    #[track_caller]
    pub(crate) fn power_off(&mut self) {
        // (Not `systemctl poweroff`, which asks logind, where that is installed, and so starts it.)
        let job = ["start", "--no-block", "--job-mode=replace-irreversibly", "poweroff.target"];
        // It may be off before that has answered.
        self.systemctl(job).run();
        self.wait_until_off();
    }

    /// Everything that runs dies at once, as when the power fails. (Its disk is in the same memory as before, so nothing
    /// that was written is lost.)
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        fs::write(self.group.join("cgroup.kill"), "1").expect("write to cgroup.kill");
        self.wait_until_off();
    }

    #[track_caller]
    fn wait_until_off(&mut self) {
        let mut machine = self.running.take().expect("it is on");
        eventually("it is off", || machine.parent.try_wait().expect("wait for our own child").is_some());
        self.remove_groups();
    }

    /// Removes what systemd has made in the control group; in a new boot it would find it.
    fn remove_groups(&self) {
        eventually("the control groups are empty", || {
            let removed = Command::new("find")
                .arg(&self.group)
                .args(["-mindepth", "1", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
                .output()
                .expect("start find");
            removed.status.success()
        });
    }

    /// `systemctl …`
    pub(crate) fn systemctl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        args.into_iter().fold(self.command("root", ["systemctl", "--no-pager"]), Invocation::arg)
    }

    /// A command of that user, as from a shell of his: with his groups, and an environment of its own.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, user: &str, words: impl IntoIterator<Item = S>) -> Invocation {
        let init = self.running.as_ref().expect("it is on").init;
        let home = if user == "root" { "/root".to_owned() } else { format!("/home/{user}") };
        let enter = Invocation::of("sh").arg("-c").arg(ENTER).arg("sh").arg(&self.group).arg(init.to_string());
        let enter = ["env", "-i", "container=triplock-box"].into_iter().fold(enter, Invocation::arg);
        let enter = enter
            .arg(format!("HOME={home}"))
            .arg(format!("USER={user}"))
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let user = format!("--reuid={user} --regid={user} --init-groups --");
        let enter = std::iter::once("setpriv").chain(user.split(' ')).fold(enter, Invocation::arg);
        words.into_iter().fold(enter, Invocation::arg)
    }

    /// A shell script of that user.
    pub(crate) fn sh(&self, user: &str, script: &str) -> Invocation {
        self.command(user, ["sh", "-c", script])
    }

    /// Adds a user (with a home in /home) to the machine, which is on.
    #[track_caller]
    pub(crate) fn add_user(&self, name: &str, groups: &[&str]) {
        let groups = groups.join(",");
        self.command("root", ["useradd", "--create-home", "--shell=/bin/sh", "--groups", &groups, name]).exits(0);
    }

    /// The manager of that user's own units (`user@.service`), started; what the answer's words are for, such as
    /// `["systemctl", "--user", "start", "x.service"]`, then reach it.
    pub(crate) fn start_user_manager(&self, user: &str) -> UserManager<'_> {
        let id = self.command("root", ["id", "-u", user]).exits(0).stdout.trim().to_owned();
        // (In a real machine logind makes the directory, and PAM sets the variable.)
        self.write(
            "/etc/systemd/system/user-runtime-dir@.service.d/box.conf",
            "[Service]\nExecStart=\nExecStart=install -d -m 700 -o %i -g %i /run/user/%i\nExecStop=\n",
        );
        self.write(
            "/etc/systemd/system/user@.service.d/box.conf",
            "[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n",
        );
        self.systemctl(["daemon-reload"]).exits(0);
        self.systemctl(["start", &format!("user@{id}.service")]).exits(0);
        UserManager { machine: self, user: user.to_owned(), id }
    }

    /// Where a file of the machine is for this process.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        assert!(path.starts_with('/'), "an absolute path: {path}");
        match &self.running {
            Some(machine) => format!("/proc/{}/root{path}", machine.init).into(),
            None => self.kept(&format!("root{path}")),
        }
    }

    fn kept(&self, name: &str) -> PathBuf {
        format!("/proc/{}/root{}/{name}", self.keeper.id(), self.directory.display()).into()
    }

    /// Writes a file of the machine, and makes its directory.
    #[track_caller]
    pub(crate) fn write(&self, path: &str, text: &str) {
        let at = self.path(path);
        fs::create_dir_all(at.parent().expect("not /")).unwrap_or_else(|e| panic!("the directory of {path}: {e}"));
        fs::write(&at, text).unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Defines a job, by the lines of its file besides the command.
    #[track_caller]
    pub(crate) fn job(&self, name: &str, script: &str, lines: &str) {
        let file =
            format!("[jobs.{}]\ncommand = [\"sh\", \"-c\", {}]\n{lines}\n", Value::from(name), Value::from(script));
        self.write(&format!("/etc/triplock/jobs.d/{name}.toml"), &file);
    }

    /// A property of a unit, as `systemctl show` prints it.
    #[track_caller]
    pub(crate) fn property(&self, unit: &str, property: &str) -> String {
        let shown = self.systemctl(["show", "--value", "-p", property, unit]).run();
        shown.exits(0);
        shown.stdout.trim_end().to_owned()
    }

    /// The journal's entries that match, as `journalctl -o json` gives them.
    #[track_caller]
    pub(crate) fn journal(&self, matches: &[&str]) -> Vec<Value> {
        // What was written before is in it then.
        self.command("root", ["journalctl", "--sync"]).exits(0);
        let journal = ["journalctl", "--quiet", "--no-pager", "--all", "--output=json"].iter().chain(matches);
        let found = self.command("root", journal).run();
        // 1: there is none.
        assert!(matches!(found.code(), Some(0 | 1)), "journalctl: {}", found.stderr);
        found.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The lines of a job's ledger in the shared state directory.
    #[track_caller]
    pub(crate) fn ledger(&self, job: &str) -> Vec<Value> {
        let ledger = fs::read_to_string(self.path(&format!("/var/lib/triplock/jobs/{job}.jsonl"))).unwrap_or_default();
        ledger.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What came of each run and non-run of it.
    #[track_caller]
    pub(crate) fn outcomes(&self, job: &str) -> Vec<String> {
        let over = |line: &Value| matches!(line["event"].as_str(), Some("ended" | "not_run")) && line["again"] != true;
        let outcome = |line: Value| line["outcome"].as_str().expect("an outcome").to_owned();
        self.ledger(job).into_iter().filter(over).map(outcome).collect()
    }

    /// Waits until the job's runs and non-runs came to that.
    #[track_caller]
    pub(crate) fn comes_to(&self, job: &str, outcomes: &[&str]) {
        let mut found = Vec::new();
        eventually(&format!("the runs of {job} come to {outcomes:?}"), || {
            found = self.outcomes(job);
            found.len() >= outcomes.len()
        });
        assert_eq!(found, outcomes, "{job}: {:#?}", self.ledger(job));
    }

    /// The processes of the machine whose command line has that text, by their numbers outside.
    pub(crate) fn processes(&self, text: &str) -> Vec<u32> {
        let find = ["-name", "cgroup.procs", "-exec", "cat", "{}", "+"];
        // (Groups come and go meanwhile.)
        let found = Command::new("find").arg(&self.group).args(find).output().expect("start find");
        let pids = String::from_utf8_lossy(&found.stdout).into_owned();
        let pids = pids.lines().filter_map(|pid| pid.parse().ok());
        pids.filter(|pid| crate::job::is_alive(*pid) && crate::job::command_line(*pid).contains(text)).collect()
    }

    /// What systemd has printed.
    pub(crate) fn console(&self) -> String {
        fs::read_to_string(self.kept("console")).unwrap_or_default()
    }
}

impl Drop for SystemdBox {
    fn drop(&mut self) {
        if std::thread::panicking() && self.running.is_some() {
            let journal = self.sh("root", "timeout 10 journalctl --no-pager -n 100 -o short-precise").run();
            eprintln!("the machine's journal:\n{}", journal.stdout);
        }
        // The end of its input is what it waits for.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        if let Some(mut machine) = self.running.take() {
            let _ = machine.parent.wait();
        }
    }
}

/// A user's own systemd.
#[derive(Debug)]
pub(crate) struct UserManager<'a> {
    machine: &'a SystemdBox,
    user: String,
    id: String,
}

impl UserManager<'_> {
    /// A command in the user's session.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Invocation {
        let session = ["env".to_owned(), format!("XDG_RUNTIME_DIR=/run/user/{}", self.id)];
        words.into_iter().fold(self.machine.command(&self.user, session), Invocation::arg)
    }

    /// `systemctl --user …`
    pub(crate) fn systemctl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        args.into_iter().fold(self.command(["systemctl", "--user", "--no-pager"]), Invocation::arg)
    }
}
