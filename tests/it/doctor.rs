//! `doctor` on machines that are made up: a tree with an `/etc`, crontabs and units, below a temporary directory. Each
//! finding is shown together with the machine on which its fix was made, which is well.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    machine,
    sandbox::{Finished, Invocation, Sandbox, eventually},
};

const UNITS: &str = "/etc/systemd/system";

/// A machine below a directory.
struct Tree {
    sandbox: Sandbox,
}

impl Tree {
    /// One on which triplock is installed and nothing is scheduled.
    fn new() -> Self {
        let tree = Self { sandbox: Sandbox::new() };
        // Whoever runs the tests is alice, or root.
        let (me, alice) = (rustix::process::geteuid().as_raw(), if machine::is_root() { 1000 } else { uid() });
        let passwd = format!(
            "root:x:0:0:root:/root:/bin/sh\nalice:x:{alice}:1000::/home/alice:/bin/sh\nbob:x:60123:60123::/home/bob:/bin/sh\n"
        );
        assert!(me == 0 || me == alice);
        tree.with("/etc/passwd", &passwd).program("/usr/bin/triplock")
    }

    fn root(&self) -> PathBuf {
        self.sandbox.path("root")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// With a file.
    fn with(self, path: &str, text: &str) -> Self {
        self.write(path, text.as_bytes());
        self
    }

    fn write(&self, path: &str, bytes: &[u8]) {
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

    fn program(self, path: &str) -> Self {
        let tree = self.with(path, "");
        mode(&tree.path(path), 0o755);
        tree
    }

    /// With a line in /etc/cron.d, after these environment lines.
    fn cron(self, above: &str, line: &str) -> Self {
        let text = format!("{above}\n* * * * * {line}\n");
        self.with("/etc/cron.d/x", &text)
    }

    /// With a service of these settings, started by a timer of its name.
    fn service(self, name: &str, settings: &str) -> Self {
        self.with(&format!("{UNITS}/{name}"), &format!("[Service]\n{settings}\n"))
    }

    /// With a job file of the machine.
    fn job(self, text: &str) -> Self {
        self.with("/etc/triplock/jobs.d/jobs.toml", text)
    }

    fn doctor(&self) -> Invocation {
        let root = self.root();
        self.sandbox.triplock(["doctor", "--root", root.to_str().unwrap()]).under([
            "env",
            "-u",
            "XDG_CONFIG_HOME",
            "HOME=/none/such",
        ])
    }

    fn examined(&self) -> Found {
        Found::of(self.doctor().run())
    }

    /// It finds exactly one problem: that word, and a message with all those fragments.
    #[track_caller]
    fn has(&self, word: &str, fragments: &[&str]) -> Value {
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
    fn is_well(&self) -> Found {
        let found = self.examined();
        assert!(found.problems.is_empty() && found.finished.code() == Some(0), "{found:#?}");
        found
    }
}

/// What was printed.
#[derive(Debug)]
struct Found {
    problems: Vec<Value>,
    notes: Vec<String>,
    looked_at: Value,
    finished: Finished,
}

impl Found {
    #[track_caller]
    fn of(finished: Finished) -> Self {
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

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

const HERE: &str = "TRIPLOCK_STATE_DIR=/s";

#[test]
fn an_empty_machine_is_well() {
    let found = Tree::new().is_well();
    assert_eq!((found.notes.len(), &found.looked_at["scheduled"]), (0, &Value::from(0)));
}

#[test]
fn a_healthy_machine_is_well_without_a_word() {
    let tree = Tree::new()
        .job("[jobs.nightly]\ncommand = ['dump']\n[jobs.other]\ncommand = 'cd / && dump'\n")
        .program("/usr/bin/dump")
        .with("/etc/crontab", "SHELL=/bin/sh\n17 * * * * root cd / && run-parts --report /etc/cron.hourly\n")
        .cron(HERE, "alice nice triplock run nightly >/dev/null 2>&1")
        .with(&format!("{UNITS}/triplock@.service"), include_str!("../../systemd/triplock@.service"))
        .with(&format!("{UNITS}/triplock@.timer"), include_str!("../../systemd/triplock@.timer"))
        .with(
            &format!("{UNITS}/triplock@nightly.service.d/x.conf"),
            &format!("[Service]\nEnvironment={HERE}\nUser=bob\n"),
        )
        .with("/usr/lib/systemd/system/noise.service", "[Service]\nExecStart=/bin/noise\n");
    fs::create_dir_all(tree.path(&format!("{UNITS}/timers.target.wants"))).unwrap();
    symlink("../triplock@.timer", tree.path(&format!("{UNITS}/timers.target.wants/triplock@nightly.timer"))).unwrap();
    let found = tree.is_well();
    assert_eq!((found.notes.len(), &found.looked_at["scheduled"]), (0, &Value::from(2)), "{found:#?}");
    let text = tree.doctor().in_text().run().stdout;
    assert!(
        text.contains("all is well: looked at") && text.contains("2 command lines in crontabs and units"),
        "{text}"
    );
}

#[test]
fn state_directories_that_differ_are_named_with_their_places() {
    let tree = |set: &str| {
        Tree::new()
            .cron("TRIPLOCK_STATE_DIR=/var/lib/triplock", "bob triplock run nightly -- true")
            .with("/etc/cron.d/y", &format!("{set}\n\n* * * * * bob triplock run nightly -- true\n"))
    };
    let problem = tree("# none").has(
        "two_locks",
        &[
            "job nightly: /etc/cron.d/x line 2 uses /var/lib/triplock and /etc/cron.d/y line 3 uses ",
            "/home/bob/.local/state/triplock: two locks; set TRIPLOCK_STATE_DIR=/var/lib/triplock in both",
        ],
    );
    assert_eq!(problem["lock"], "job nightly");
    assert_eq!(problem["places"][1]["at"], "/etc/cron.d/y line 3");
    assert_eq!(problem["places"][1]["user"], "bob");
    tree("TRIPLOCK_STATE_DIR=/var/lib/triplock").is_well();
    // The same directory by another name.
    let tree = tree("TRIPLOCK_STATE_DIR=/srv/link");
    fs::create_dir_all(tree.path("/var/lib/triplock")).unwrap();
    fs::create_dir_all(tree.path("/srv")).unwrap();
    symlink("../var/lib/triplock", tree.path("/srv/link")).unwrap();
    tree.is_well();
}

/// Every way in which a state directory is chosen, by what is said of it beside another one.
#[test]
fn each_way_to_choose_a_state_directory_is_understood() {
    let exec = |line: &str, more: &str| format!("ExecStart={line}\n{more}");
    let run = "/usr/bin/triplock run nightly -- true";
    for (settings, dir) in [
        (exec(run, ""), "/var/lib/triplock"),
        (exec(run, "User=bob"), "/home/bob/.local/state/triplock"),
        (exec(run, "User=60123"), "/home/bob/.local/state/triplock"),
        (exec(run, "Environment=A=1 TRIPLOCK_STATE_DIR=/a \"XDG_STATE_HOME=/b\""), "/a"),
        (exec(run, "User=bob\nEnvironment=XDG_STATE_HOME=/b"), "/b/triplock"),
        (exec(run, "Environment=TRIPLOCK_STATE_DIR=/a\nEnvironment=\n"), "/var/lib/triplock"),
        (exec(run, "Environment=TRIPLOCK_STATE_DIR=/a\nUnsetEnvironment=TRIPLOCK_STATE_DIR"), "/var/lib/triplock"),
        (exec(run, "Environment=TRIPLOCK_STATE_DIR=/a\nEnvironmentFile=-/etc/default/x"), "/f"),
        (exec("/usr/bin/triplock --state-dir /o/%p run nightly -- true", "Environment=TRIPLOCK_STATE_DIR=/a"), "/o/n"),
        (exec("/usr/bin/env TRIPLOCK_STATE_DIR=/e triplock run nightly \\\n -- true", ""), "/e"),
        (exec("/bin/sh -c 'export TRIPLOCK_STATE_DIR=/h; exec triplock run nightly -- true'", ""), "/h"),
        (
            exec(
                "/no",
                "ExecStart=\nExecStart=-/usr/bin/triplock run nightly -- true\nEnvironment=TRIPLOCK_STATE_DIR=%S/t",
            ),
            "/var/lib/t",
        ),
        (exec("/usr/bin/flock /run/x triplock run nightly -- true", "Environment=TRIPLOCK_STATE_DIR=/a"), "/a"),
        (exec("/usr/bin/triplock flock --job nightly --state-dir /j /run/x true", ""), "/j"),
        (exec("/usr/bin/triplock history nightly", "Environment=TRIPLOCK_STATE_DIR=/k"), "/k"),
    ] {
        let tree = Tree::new()
            .with("/etc/default/x", "# x\nTRIPLOCK_STATE_DIR=\"/f\"\n")
            .program("/usr/bin/flock")
            .cron(HERE, "bob triplock run nightly -- true")
            .service("n.service", &settings);
        let at = format!("n.service ({UNITS}/n.service line ");
        let problem = tree.has("two_locks", &[&at]);
        assert_eq!(problem["places"][1]["state_dir"], dir, "{settings}");
    }
    // A machine's and a user's config.toml.
    let tree = Tree::new().cron(HERE, "root triplock run nightly -- true").service("n.service", &exec(run, "User=bob"));
    let tree = tree.with("/etc/triplock/config.toml", "state_dir = '/m'\n");
    assert_eq!(tree.has("two_locks", &[])["places"][1]["state_dir"], "/m");
    let tree = tree.with("/home/bob/.config/triplock/config.toml", "state_dir = '/u'\n");
    if machine::is_root() {
        assert_eq!(tree.has("two_locks", &[])["places"][1]["state_dir"], "/u");
    }
}

#[test]
fn drop_ins_count_in_their_order_and_of_the_nearest_directory() {
    let tree = Tree::new()
        .cron(HERE, "bob triplock run a -- true")
        .with("/usr/lib/systemd/system/t@.service", "[Service]\nExecStart=/usr/bin/triplock run %i -- true\n")
        .with("/usr/lib/systemd/system/t@.service.d/10.conf", "[Service]\nEnvironment=TRIPLOCK_STATE_DIR=/10\n")
        .with(&format!("{UNITS}/t@a.service.d/20.conf"), "[Service]\nEnvironment=TRIPLOCK_STATE_DIR=/20\n");
    let dir = |tree: &Tree| tree.has("two_locks", &[])["places"][1]["state_dir"].clone();
    assert_eq!(dir(&tree), "/20");
    // The later name counts, wherever it is.
    let tree =
        tree.with("/usr/lib/systemd/system/t@.service.d/30.conf", "[Service]\nEnvironment=TRIPLOCK_STATE_DIR=/30\n");
    assert_eq!(dir(&tree), "/30");
    // One of the same name in /etc replaces it.
    tree.with(&format!("{UNITS}/t@.service.d/30.conf"), &format!("[Service]\nEnvironment={HERE}\n")).is_well();
    // A masked unit starts nothing.
    let tree = Tree::new()
        .cron(HERE, "bob triplock run a -- true")
        .with("/usr/lib/systemd/system/b.service", "[Service]\nExecStart=/usr/bin/triplock run a -- true\n");
    assert_eq!(dir(&tree), "/var/lib/triplock");
    fs::create_dir_all(tree.path(UNITS)).unwrap();
    symlink("/dev/null", tree.path(&format!("{UNITS}/b.service"))).unwrap();
    tree.is_well();
}

#[test]
fn this_shell_is_one_of_those_who_meet() {
    let state = |tree: &Tree| tree.sandbox.state_dir().to_str().unwrap().to_owned();
    let tree = Tree::new();
    tree.sandbox.run("nightly", &[], &["true"]).exits(0);
    tree.sandbox.add("1", 1).succeeds();
    let other = tree.cron(HERE, "bob triplock run nightly -- true");
    let here = format!("this shell uses {}", state(&other));
    other.has("two_locks", &["job nightly: /etc/cron.d/x line 2 uses /s and ", &here]);
    let set = format!("TRIPLOCK_STATE_DIR={}", state(&other));
    let tree = other.cron(&set, "bob triplock run nightly -- true");
    tree.is_well();
    // Trips are locked as well, and somebody else's job that never ran here is his.
    tree.cron(HERE, "bob triplock book 1 --student 7").has("two_locks", &["trip 1: ", &here]);
    Tree::new().cron(HERE, "bob triplock run nightly -- true").is_well();
    let me = if machine::is_root() { "root" } else { "alice" };
    Tree::new().cron(HERE, &format!("{me} triplock run nightly -- true")).has("two_locks", &["this shell uses"]);
}

#[test]
fn a_job_that_nobody_defines_is_named() {
    let line = "alice triplock run nightly";
    let tree = here(Tree::new(), line);
    let fragments =
        ["/etc/cron.d/x line 2: job nightly has no command", "define [jobs.nightly] in", "/etc/triplock/jobs.d"];
    assert_eq!(tree.has("undefined_job", &fragments)["job"], "nightly");
    tree.job("[jobs.nightly]\ncommand = ['/usr/bin/triplock']\n").is_well();
    // And one that is told twice what to do.
    let line = "alice triplock run nightly -- true";
    let tree = here(Tree::new(), line).job("[jobs.nightly]\ncommand = ['/usr/bin/triplock']\n");
    tree.has("two_commands", &["/etc/cron.d/x line 2: job nightly has its command in", "jobs.toml (line 1) too"]);
    // A line that triplock would refuse.
    let tree = here(Tree::new(), "alice triplock run ../x -- true");
    tree.has("wrong_command_line", &["/etc/cron.d/x line 2: triplock would refuse this command line: "]);
}

/// The line in the state directory of this shell, whoever's it is.
fn here(tree: Tree, line: &str) -> Tree {
    let state = format!("TRIPLOCK_STATE_DIR={}", tree.sandbox.state_dir().display());
    tree.cron(&state, line)
}

#[test]
fn a_program_that_a_scheduler_does_not_find_is_named() {
    let bare = Tree::new().program("/usr/local/bin/triplock");
    fs::remove_file(bare.path("/usr/bin/triplock")).unwrap();
    let bare = bare.cron(HERE, "bob triplock run a -- true");
    bare.has(
        "program_not_found",
        &["/etc/cron.d/x line 2: triplock is not in its PATH (/usr/bin:/bin); write its whole path"],
    );
    bare.cron("PATH=/usr/local/bin:/bin\nTRIPLOCK_STATE_DIR=/s", "bob triplock run a -- true").is_well();
    Tree::new()
        .cron(HERE, "bob /opt/bin/triplock run a -- true")
        .has("program_not_found", &["there is no program /opt/bin/triplock"]);
    // A job's own program, under cron and under systemd.
    let job = || Tree::new().program("/usr/local/bin/dump").job("[jobs.a]\ncommand = 'dump --all'\n");
    let found = job().cron(HERE, "bob triplock run a");
    found.has("program_not_found", &["job a starts dump (", "not in its PATH (/usr/bin:/bin)"]);
    job()
        .service("a.service", "Environment=TRIPLOCK_STATE_DIR=/s\nUser=bob\nExecStart=/usr/bin/triplock run a")
        .is_well();
    let found = job().service(
        "a.service",
        "Environment=TRIPLOCK_STATE_DIR=/s PATH=/bin\nUser=bob\nExecStart=/usr/bin/triplock run a",
    );
    found.has("program_not_found", &["a.service (", "job a starts dump ("]);
}

#[test]
fn a_percent_sign_that_cron_would_take_is_named() {
    for line in ["bob triplock run a -- date +%F", "bob date +%F | triplock run a -- cat"] {
        let tree = Tree::new().cron(HERE, line);
        tree.has("percent_in_crontab", &["/etc/cron.d/x line 2: cron ends the command at the %", "write \\%"]);
        Tree::new().cron(HERE, &line.replace('%', "\\%")).is_well();
    }
    Tree::new().cron(HERE, "bob mail -s x%text").is_well();
}

#[test]
fn what_cron_passes_over_is_named() {
    Tree::new()
        .with("/etc/cron.d/x", &format!("{HERE}\n* * * * * bob triplock run a -- true"))
        .has("cron_ignores", &["/etc/cron.d/x line 2: cron ignores a last line without a line end"]);
    let line = format!("{HERE}\n* * * * * bob triplock run a -- true\n");
    Tree::new().with("/etc/debian_version", "12\n").with("/etc/cron.d/a.b", &line).has(
        "cron_ignores",
        &["/etc/cron.d/a.b: Debian's cron ignores a file with such a name; rename it to /etc/cron.d/a-b"],
    );
    Tree::new().with("/etc/cron.d/a.b", &line).is_well();
    // Copies are nobody's.
    for name in ["x~", ".x", "x.dpkg-old"] {
        let found = Tree::new().with(&format!("/etc/cron.d/{name}"), &line).is_well();
        assert_eq!(found.looked_at["scheduled"], 0);
    }
    let tree = Tree::new().cron(HERE, "nobody-knows triplock run a -- true");
    tree.has("unknown_user", &["/etc/cron.d/x line 2: there is no user nobody-knows"]);
    tree.with("/etc/nsswitch.conf", "passwd: files ldap\n").is_well();
}

#[test]
fn a_home_that_is_missing_is_missed() {
    // Root's unit has no HOME, so what is in /root/.config is not read.
    if !machine::is_root() {
        return machine::skip("doctor::a_home_that_is_missing_is_missed", "needs root: the files must be root's");
    }
    let unit = "Environment=TRIPLOCK_STATE_DIR=/s\nExecStart=/usr/bin/triplock run a";
    let tree = || Tree::new().with("/root/.config/triplock/jobs.d/a.toml", "[jobs.a]\ncommand = ['triplock']\n");
    let set = |tree: &Tree, more: &str| {
        let state = tree.sandbox.state_dir().display().to_string();
        unit.replace("/s\n", &format!("{state}\n{more}"))
    };
    let without = tree();
    let settings = set(&without, "");
    without.service("a.service", &settings).has(
        "no_home",
        &[
            "a.service (",
            "job a is defined in",
            "not read without HOME; move the file to /etc/triplock/jobs.d, or set HOME=/root",
        ],
    );
    let with = tree();
    let settings = set(&with, "Environment=HOME=/root\n");
    with.service("a.service", &settings).is_well();
    // An ordinary user without one has no state directory either.
    let tree = Tree::new().cron("", "bob env -i /usr/bin/triplock run a -- true");
    tree.has(
        "no_state_dir",
        &["/etc/cron.d/x line 2: without HOME there is no state directory for user bob; set TRIPLOCK_STATE_DIR"],
    );
}

#[test]
fn a_private_tmp_is_named_where_it_matters() {
    let run = |state: &str, more: &str| {
        let settings = format!(
            "User=bob\nEnvironment=TRIPLOCK_STATE_DIR={state}\nExecStart=/usr/bin/triplock run a -- true\n{more}"
        );
        Tree::new().service("a.service", &settings)
    };
    for (state, more) in
        [("/tmp/s", "PrivateTmp=yes"), ("/var/tmp/s/t", "PrivateTmp=true"), ("/tmp/s", "DynamicUser=yes")]
    {
        let fragments = ["a.service: ", "PrivateTmp", state, "two locks; move the state directory out of /tmp"];
        assert_eq!(run(state, more).has("private_tmp", &fragments)["unit"], "a.service");
    }
    run("/tmp/s", "").is_well();
    run("/s", "PrivateTmp=yes").is_well();
    let flock = |program: &str, more: &str| {
        Tree::new()
            .program("/usr/bin/flock")
            .service("a.service", &format!("User=bob\nExecStart={program} /tmp/x.lock true\n{more}"))
    };
    for program in ["/usr/bin/flock -n", "/usr/bin/triplock flock -n"] {
        flock(program, "PrivateTmp=yes").has("private_tmp", &["another /tmp/x.lock than the one outside: two locks"]);
        flock(program, "").is_well();
    }
}

#[test]
fn a_sandbox_that_hides_or_closes_the_state_directory_is_named() {
    let run = |more: &str| {
        let state = "Environment=TRIPLOCK_STATE_DIR=/var/lib/triplock";
        Tree::new()
            .service("a.service", &format!("User=bob\n{state}\nExecStart=/usr/bin/triplock run a -- true\n{more}"))
    };
    for (more, fragment) in [
        ("ProtectSystem=strict", "ProtectSystem=strict makes the state directory /var/lib/triplock read-only"),
        ("DynamicUser=yes", "DynamicUser= makes the state directory"),
        ("ReadOnlyPaths=/var/lib", "ReadOnlyPaths=/var/lib makes the state directory"),
        (
            "InaccessiblePaths=/var",
            "InaccessiblePaths=/var hides the state directory /var/lib/triplock; add BindPaths=",
        ),
        ("RootDirectory=/srv/r", "RootDirectory=/srv/r hides the state directory"),
        ("TemporaryFileSystem=/var", "TemporaryFileSystem=/var hides the state directory"),
    ] {
        run(more).has("hidden_state", &[fragment]);
    }
    run("ProtectSystem=strict\nReadWritePaths=/var/lib/triplock").is_well();
    run("ProtectSystem=full\nProtectHome=yes").is_well();
    run("StateDirectory=triplock").has(
        "chowned_state",
        &[
            "a.service: StateDirectory=triplock gives /var/lib/triplock to the unit's user",
            "add ReadWritePaths=/var/lib/triplock",
        ],
    );
    run("StateDirectory=other").is_well();
    // With full privileges a command is in no sandbox.
    let tree = Tree::new();
    let state = tree.sandbox.state_dir().display().to_string();
    let line = format!("ExecStart=+/usr/bin/triplock --state-dir {state} run a -- true\nProtectSystem=strict");
    tree.service("a.service", &line).is_well();
    // The hardened unit that is ours is open where it must be.
    let tree = Tree::new()
        .with(&format!("{UNITS}/triplock@.service"), include_str!("../../systemd/triplock@.service"))
        .with(
            &format!("{UNITS}/triplock@a.service.d/hardened.conf"),
            "[Service]\nUser=bob\nProtectSystem=strict\nReadWritePaths=/var/lib/triplock\n",
        )
        .job("[jobs.a]\ncommand = ['/usr/bin/triplock']\n");
    tree.is_well();
}

#[test]
fn a_lock_file_that_the_kernel_protects_is_named() {
    let test = "doctor::a_lock_file_that_the_kernel_protects_is_named";
    if !machine::is_root() {
        return machine::skip(test, "needs root, to make files of several users");
    }
    let tree = |level: &str| {
        Tree::new()
            .program("/usr/bin/flock")
            .with("/proc/sys/fs/protected_regular", level)
            .with("/tmp/x.lock", "")
            .cron("", "bob triplock flock -n /tmp/x.lock true")
    };
    let own = |tree: &Tree, uid: u32| {
        mode(&tree.path("/tmp"), 0o1777);
        std::os::unix::fs::chown(tree.path("/tmp/x.lock"), Some(uid), None).unwrap();
    };
    let found = tree("2\n");
    own(&found, 1000);
    let fragments =
        ["user bob may not open the lock file /tmp/x.lock, which belongs to user 1000", "fs.protected_regular"];
    found.has("protected_lock_file", &fragments);
    // Not with the setting off, not one's own file, not one of the directory's owner.
    let found = tree("0\n");
    own(&found, 1000);
    found.is_well();
    let found = tree("1\n");
    own(&found, 60123);
    found.is_well();
    own(&found, 0);
    found.is_well();
    own(&found, 1000);
    mode(&found.path("/tmp"), 0o777);
    found.is_well();
}

#[test]
fn network_file_systems_and_separate_mounts_are_named() {
    let mounts = |extra: &str| format!("22 1 254:0 / / rw - ext4 /dev/vda rw\n{extra}");
    let nfs = mounts("30 22 0:40 / /srv rw shared:1 - nfs4 host:/x rw\n");
    let line = "bob triplock --state-dir /srv/t run a -- true";
    let tree = Tree::new().with("/proc/self/mountinfo", &nfs).cron("", line);
    tree.has("network_file_system", &["/etc/cron.d/x line 2: its state directory /srv/t lies on nfs4 (/srv)"]);
    tree.with("/proc/self/mountinfo", &mounts("")).is_well();
    let line = "bob triplock flock /srv/x.lock true";
    let tree = Tree::new().with("/proc/self/mountinfo", &nfs).cron("", line);
    tree.has("network_file_system", &["its lock file /srv/x.lock lies on nfs4"]);

    let tree = Tree::new();
    let jobs = tree.sandbox.jobs("").display().to_string();
    let jobs = jobs.trim_end_matches('/');
    let within = mounts(&format!("31 22 0:41 / {jobs} rw - overlay none rw\n"));
    let tree = tree.with("/proc/self/mountinfo", &within);
    tree.has(
        "separate_mount",
        &[&format!("{jobs}: is a mount of its own (overlay) within the state directory"), "two locks"],
    );
}

#[test]
fn a_crontab_of_a_user_is_read() {
    let me = if machine::is_root() { "root" } else { "alice" };
    let tree = Tree::new().with(
        &format!("/var/spool/cron/crontabs/{me}"),
        "# mine\nTRIPLOCK_STATE_DIR=/t\n@daily triplock run a -- true\n",
    );
    tree.has("two_locks", &[&format!("job a: {me}'s crontab line 3 uses /t and this shell uses")]);
    let tree = tree.cron(HERE, "bob triplock run a -- true");
    tree.has("two_locks", &["/etc/cron.d/x line 2 uses /s", &format!("{me}'s crontab line 3 uses /t: two locks")]);
    // And everybody's, by root.
    let tree = Tree::new()
        .cron(HERE, "bob triplock run a -- true")
        .with("/var/spool/cron/crontabs/bob", "* * * * * triplock run a -- true\n");
    if machine::is_root() {
        tree.has("two_locks", &["bob's crontab line 1 uses /home/bob/.local/state/triplock"]);
    } else {
        tree.is_well();
    }
}

#[test]
fn a_users_units_are_read() {
    let home = if machine::is_root() { "/root" } else { "/home/alice" };
    let tree = Tree::new().with(
        &format!("{home}/.config/systemd/user/a.service"),
        "[Service]\nExecStart=/usr/bin/triplock --state-dir %h/s run a -- true\n",
    );
    tree.has(
        "two_locks",
        &[&format!("a.service ({home}/.config/systemd/user/a.service line 2) uses {home}/s and this shell")],
    );
}

#[test]
fn whatever_lies_there_does_no_harm() {
    let tree = Tree::new()
        .with("/etc/cron.d/binary", "")
        .with(&format!("{UNITS}/ok.service"), "[Service]\nExecStart=/bin/true\n");
    let noise: Vec<u8> = (0..50_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    tree.write("/etc/cron.d/binary", &[b"triplock flock\n".as_slice(), &noise].concat());
    tree.write(
        &format!("{UNITS}/binary.service"),
        &[b"[Service]\nExecStart=triplock \"\n".as_slice(), &noise].concat(),
    );
    tree.write("/etc/cron.d/long", format!("* * * * * bob triplock {}\n", "x ".repeat(100_000)).as_bytes());
    let huge = tree.path("/etc/cron.d/huge");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    let fifo = |path: &str| {
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, tree.path(path), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    fifo("/etc/cron.d/fifo");
    fifo("/etc/crontab");
    fifo(&format!("{UNITS}/fifo.service"));
    symlink("loop", tree.path("/etc/cron.d/loop")).unwrap();
    symlink(".", tree.path(&format!("{UNITS}/loop.wants"))).unwrap();
    symlink("loop.service", tree.path(&format!("{UNITS}/loop.service"))).unwrap();
    for n in 0..3000 {
        tree.write(&format!("{UNITS}/n{n}.service"), b"[Service]\nExecStart=/bin/true\n");
    }
    let found = tree.examined();
    // What could not be read is a note, once; what is no command line of ours is nothing.
    let notes: Vec<_> = found.notes.iter().filter(|note| note.contains("could not be looked at")).collect();
    assert!(notes.len() == 1 && notes[0].contains("more"), "{found:#?}");
    let words: BTreeMap<&str, usize> = found.problems.iter().fold(BTreeMap::new(), |mut words, problem| {
        *words.entry(problem["problem"].as_str().unwrap()).or_default() += 1;
        words
    });
    assert!(words.keys().all(|word| *word == "wrong_command_line"), "{found:#?}");
    for line in tree.doctor().in_text().run().stdout.lines() {
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    }
}

#[test]
fn a_lock_that_outlives_its_run_is_named() {
    let tree = Tree::new();
    let sandbox = &tree.sandbox;
    // It leaves behind what has the descriptor.
    sandbox.sh("left", &["--hold", "tree"], "sleep 1000 >/dev/null 2>&1 & echo $! >pid").exits(0);
    let pid = sandbox.pid_in("pid");
    let problem = tree.has(
        "leftover_holder",
        &["job left: no run is on, and process ", "(sleep 1000, since 20", "every start is skipped; `kill ", "--close"],
    );
    assert_eq!((&problem["job"], &problem["pids"]), (&"left".into(), &vec![pid].into()));
    sandbox.send(pid, rustix::process::Signal::KILL);
    eventually("the lock is free", || !sandbox.is_locked("left.lock"));
    tree.is_well();
    // Its wrapper is killed, and the command goes on.
    let running = sandbox.sh("orphan", &[], "echo $$ >pid2; exec sleep 1000").start();
    let pid = sandbox.pid_in("pid2");
    tree.is_well();
    running.dies();
    let problem = tree.has(
        "leftover_holder",
        &["job orphan: the triplock of run 1 is gone, and process ", "end it with `triplock stop orphan`"],
    );
    assert_eq!(problem["pids"], Value::from(vec![pid]));
    sandbox.triplock(["stop", "orphan"]).for_people().exits(0);
    tree.is_well();
}

#[test]
fn steps_of_the_clock_are_summed_up() {
    let tree = Tree::new();
    for _ in 0..3 {
        tree.sandbox.run("j", &[], &["true"]).exits(0);
    }
    tree.is_well();
    let path = tree.sandbox.jobs("j.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    let shifted = |lines: std::ops::Range<usize>, hours: i64| {
        let shift = |line: &str| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            let before = value["time"].as_str().unwrap().to_owned();
            let time = before.parse::<chrono::DateTime<chrono::Utc>>().unwrap() + chrono::TimeDelta::hours(hours);
            let time = time.to_rfc3339_opts(chrono::SecondsFormat::Micros, false);
            value["time"] = time.clone().into();
            crate::job_lines::sealed(&line.replacen(&before, &time, 1))
        };
        let line = |(at, line): (usize, &str)| if lines.contains(&at) { shift(line) } else { line.to_owned() };
        let text: Vec<_> = whole.lines().enumerate().map(line).collect();
        fs::write(&path, text.join("\n") + "\n").unwrap();
    };
    // The first lines were written with a clock an hour ahead of what it is now.
    shifted(0..2, 1);
    let found = tree.examined();
    let words: Vec<_> = found.problems.iter().map(|problem| problem["problem"].clone()).collect();
    assert_eq!(words, ["clock_step"], "{found:#?}");
    assert!(
        found.problems[0]["message"].as_str().unwrap().contains("j.jsonl: job j: 2 lines lie in the future"),
        "{found:#?}"
    );
    // Set back by two hours once, long over: a note.
    shifted(2..6, -2);
    let found = tree.is_well();
    assert!(
        found.notes.len() == 1 && found.notes[0].contains("job j: the clock was set back once, by 7"),
        "{found:#?}"
    );
}

#[test]
fn a_newer_format_is_named_and_the_rest_is_looked_at() {
    let tree = Tree::new();
    tree.sandbox.run("new", &[], &["true"]).exits(0);
    tree.sandbox.run("old", &[], &["true"]).exits(0);
    tree.sandbox.add("1", 1).succeeds();
    let newer = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let line = |line: &str| crate::job_lines::sealed(&line.replacen("{\"format\":1,", "{\"format\":9,", 1));
        fs::write(path, text.lines().map(line).collect::<Vec<_>>().join("\n") + "\n").unwrap();
    };
    newer(&tree.sandbox.jobs("new.jsonl"));
    let found = tree.examined();
    assert_eq!(found.problems.len(), 1, "{found:#?}");
    assert_eq!(found.problems[0]["problem"], "newer_format");
    assert!(found.problems[0]["path"].as_str().unwrap().ends_with("jobs/new.jsonl"));
    assert_eq!((&found.looked_at["ledgers"], &found.looked_at["trips"]), (&2.into(), &1.into()));
    assert_eq!(found.finished.code(), Some(78));
}

#[test]
fn job_files_that_name_what_is_not_there_are_named() {
    let tree = Tree::new();
    let file = tree.sandbox.path("own.toml");
    let look = |text: &str| {
        fs::write(&file, text).unwrap();
        mode(&file, 0o644);
        Found::of(tree.doctor().arg("--config").arg(&file).run())
    };
    let found = look("[jobs.a]\ncommand = ['true']\nuser = 'nobody-knows'\n");
    assert_eq!(found.problems.len(), 1, "{found:#?}");
    assert_eq!((&found.problems[0]["problem"], &found.problems[0]["line"]), (&"unknown_user".into(), &3.into()));
    let found = look("[jobs.a]\ncommand = ['true']\nuser = 'bob'\n[jobs.b]\ncommand = 'if true; then x; fi'\n");
    assert!(found.problems.is_empty() && found.notes.is_empty(), "{found:#?}");
    let found = look("[jobs.a]\ncommand = ['/none/such']\n[jobs.b]\ncommand = 'no-such-program x'\n");
    assert!(found.problems.is_empty(), "{found:#?}");
    let [one, two] = &found.notes[..] else { panic!("{found:#?}") };
    assert!(
        one.contains("line 1: job a: /none/such is not there")
            && two.contains("no-such-program is not in this shell's PATH")
    );
}

#[test]
fn a_shared_directory_that_a_member_cannot_write_is_named() {
    let test = "doctor::a_shared_directory_that_a_member_cannot_write_is_named";
    if !machine::is_root() {
        return machine::skip(test, "needs root, to share a directory with a group");
    }
    let tree = Tree::new();
    let state = tree.sandbox.state_dir().to_owned();
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(0), Some(60124)).unwrap();
    mode(&state, 0o2770);
    tree.sandbox.run("j", &[], &["true"]).exits(0);
    tree.is_well();
    // Copied from a backup: another owner, and the group has no access.
    let lock = tree.sandbox.jobs("j.lock");
    std::os::unix::fs::chown(&lock, Some(60125), None).unwrap();
    mode(&lock, 0o600);
    let problem = tree.has("wrong_owner", &["jobs/j.lock is not open to the group that shares", "chgrp -R 60124"]);
    assert_eq!(problem["files"], 1);
    mode(&lock, 0o660);
    tree.is_well();
}

/// The paths of a real machine, in a mount namespace where they are ours.
#[test]
fn the_real_places_are_looked_at() {
    let test = "doctor::the_real_places_are_looked_at";
    if !machine::has(test, &["unshare", "mount"]) {
        return;
    }
    if !machine::is_root() {
        return machine::skip(test, "needs root, to mount over /etc and /var/spool");
    }
    let sandbox = Sandbox::new();
    let script = "set -e; umask 022; mount -t tmpfs none /var/spool; mount -t tmpfs none /etc
        mkdir -p /etc/cron.d /etc/systemd/system /var/spool/cron/crontabs
        printf 'root:x:0:0:root:/root:/bin/sh\\nbob:x:60123:60123::/home/bob:/bin/sh\\n' >/etc/passwd
        printf 'TRIPLOCK_STATE_DIR=/1\\n* * * * * root %s run a -- true\\n' \"$PROGRAM\" >/etc/crontab
        printf 'TRIPLOCK_STATE_DIR=/2\\n* * * * * root %s run a -- true\\n' \"$PROGRAM\" >/etc/cron.d/x
        printf 'TRIPLOCK_STATE_DIR=/3\\n* * * * * %s run a -- true\\n' \"$PROGRAM\" >/var/spool/cron/crontabs/bob
        printf '[Service]\\nEnvironment=TRIPLOCK_STATE_DIR=/4\\nExecStart=%s run a -- true\\n' \"$PROGRAM\" >/etc/systemd/system/a.service
        set +e; shift; exec \"$@\"";
    let program = format!("PROGRAM={}", crate::sandbox::TRIPLOCK);
    let finished =
        sandbox.triplock(["doctor"]).under(["env", &program, "unshare", "-m", "sh", "-c", script, "sh", "shift"]).run();
    let found = Found::of(finished);
    let [problem] = &found.problems[..] else { panic!("{found:#?}") };
    let dirs: Vec<_> = problem["places"].as_array().unwrap().iter().map(|place| place["state_dir"].clone()).collect();
    assert_eq!(dirs, ["/1", "/2", "/3", "/4"], "{found:#?}");
}
