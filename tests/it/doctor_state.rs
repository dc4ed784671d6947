//! What `doctor` finds in the state directory, below it, and in job files.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{
    machine,
    made_up::{Found, Tree, mode},
    mount::SmallDisk,
    sandbox::{Sandbox, eventually},
};

#[test]
fn a_lock_file_that_the_kernel_protects_is_named() {
    let test = "doctor_state::a_lock_file_that_the_kernel_protects_is_named";
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
}

#[test]
fn a_shared_directory_that_a_member_cannot_write_is_named() {
    let test = "doctor_state::a_shared_directory_that_a_member_cannot_write_is_named";
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

#[test]
fn files_that_this_user_cannot_write_are_named() {
    let test = "doctor_state::files_that_this_user_cannot_write_are_named";
    if !machine::is_root() {
        return machine::skip(test, "needs root, to be somebody else");
    }
    if !machine::has(test, &["setpriv"]) {
        return;
    }
    let sandbox = Sandbox::new().for_all_users();
    let state = sandbox.state_dir().to_owned();
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(60123), Some(60123)).unwrap();
    mode(&state, 0o700);
    let bob = ["setpriv", "--reuid=60123", "--regid=60123", "--clear-groups", "env", "HOME=/none/such"];
    sandbox.run("j", &[], &["true"]).in_directory("/").under(bob).exits(0);
    let doctor = || {
        let root = sandbox.path("none");
        let doctor = sandbox.triplock(["doctor", "--root", root.to_str().unwrap()]);
        Found::of(doctor.in_directory("/").under(bob).run())
    };
    let found = doctor();
    assert!(found.problems.is_empty() && found.notes.is_empty(), "{found:#?}");
    // What root left behind; what it says to do about it helps.
    std::os::unix::fs::chown(sandbox.jobs("j.lock"), Some(0), None).unwrap();
    for (word, expected) in [
        ("wrong_owner", "jobs/j.lock is of another user than "),
        ("not_writable", "jobs/j.lock is not writable for user 60123"),
    ] {
        let found = doctor();
        let first = &found.problems[0];
        assert_eq!((&first["problem"], &first["files"]), (&word.into(), &1.into()), "{found:#?}");
        let message = first["message"].as_str().unwrap();
        assert!(message.contains(expected), "{message}");
        let fix = message.rsplit_once("as root: ").expect("a fix").1;
        assert!(Command::new("sh").args(["-ec", fix]).status().unwrap().success(), "{fix}");
        let found = doctor();
        assert!(found.problems.is_empty(), "{fix}: {found:#?}");
        mode(&sandbox.jobs("j.lock"), 0o400);
    }
}

#[test]
fn a_disk_that_is_nearly_full_is_named() {
    let test = "doctor_state::a_disk_that_is_nearly_full_is_named";
    if !machine::may_mount(test) {
        return;
    }
    for (options, of) in [("size=1m,mode=700", "bytes"), ("size=64m,nr_inodes=20,mode=700", "inodes")] {
        let disk = SmallDisk::new(options);
        let mut tree = Tree::new();
        tree.sandbox = tree.sandbox.with_state(disk.point());
        let problem = tree.has("no_room", &["no run starts that cannot be recorded: free some, or lower keep_runs"]);
        assert_eq!(problem["of"], of);
    }
    let disk = SmallDisk::new("size=64m,mode=700");
    let mut tree = Tree::new();
    tree.sandbox = tree.sandbox.with_state(disk.point());
    tree.is_well();
}
