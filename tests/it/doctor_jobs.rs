//! What `doctor` says of jobs that will fail, or that nothing starts as their files say, and of crontab lines that cron does
//! not understand. Each finding is shown together with the machine on which its fix was made, which is well.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    install::report,
    machine,
    made_up::{Found, HERE, Tree, may_be_the_machine, mode},
    sandbox::{Sandbox, TRIPLOCK},
};

/// What `doctor` finds with that job file, or directory of them.
fn of_file(tree: &Tree, text: &str) -> Found {
    let file = tree.sandbox.path("own.toml");
    fs::write(&file, text).unwrap();
    mode(&file, 0o644);
    Found::of(tree.doctor().arg("--config").arg(&file).run())
}

#[track_caller]
fn says(found: &Found, word: &str, fragment: &str) {
    let [problem] = &found.problems[..] else { panic!("expected one {word}, not {found:#?}") };
    assert_eq!(problem["problem"], word, "{found:#?}");
    assert!(problem["message"].as_str().unwrap().contains(fragment), "no {fragment:?} in {problem:#?}");
}

#[test]
fn a_program_that_is_missing_is_a_problem_with_its_fix() {
    let tree = Tree::new();
    let dump = tree.sandbox.path("dump");
    let dump = dump.to_str().unwrap();
    let look = |command: &str| of_file(&tree, &format!("# x\n[jobs.a]\ncommand = {command}\n"));
    for (command, fragment) in [
        (
            "['/none/such']",
            "own.toml: line 2: job a: there is no program /none/such, so every run fails; correct the path",
        ),
        ("'/none/such --all | cat'", "there is no program /none/such"),
        ("['no-such-program', 'x']", "no-such-program is not in this shell's PATH"),
        ("'no-such-program x'", "no-such-program is not in this shell's PATH"),
        (
            "['./no-such']",
            "in this directory there is no program ./no-such, so every run fails; write its absolute path",
        ),
        ("['~/bin/dump']", "~/bin/dump is not expanded in a list, so every run fails; write the command as a string"),
        ("['$HOME/bin/dump']", "$HOME/bin/dump is not expanded in a list"),
    ] {
        let found = look(command);
        says(&found, "program_not_found", fragment);
        assert_eq!((&found.problems[0]["line"], &found.problems[0]["job"]), (&2.into(), &"a".into()), "{found:#?}");
        assert_eq!(found.finished.code(), Some(78));
    }
    fs::write(dump, "").unwrap();
    mode(Path::new(dump), 0o644);
    says(
        &look(&format!("['{dump}']")),
        "program_not_found",
        &format!("nobody may execute {dump}, so every run fails; chmod a+x"),
    );
    mode(Path::new(dump), 0o755);
    for command in
        [&format!("['{dump}']")[..], "['true']", "'$HOME/bin/dump'", "'~/bin/dump'", "'until true; do x; done'"]
    {
        let found = look(command);
        assert!(found.problems.is_empty() && found.notes.is_empty(), "{command}: {found:#?}");
    }
}

#[test]
fn a_scheduled_program_that_is_missing_is_named_once() {
    if !may_be_the_machine("doctor_jobs::a_scheduled_program_that_is_missing_is_named_once") {
        return;
    }
    let tree = Tree::new()
        .job("[jobs.a]\ncommand = ['/opt/dump']\n")
        .with("/etc/cron.d/x", &format!("{HERE}\n0 1 * * * bob triplock run a\n0 2 * * * bob triplock run a\n"));
    tree.has("program_not_found", &["jobs.toml: line 1: job a: there is no program /opt/dump"]);
    tree.program("/opt/dump").is_well();
}

#[test]
fn what_a_jobs_user_cannot_reach_is_a_problem() {
    let test = "doctor_jobs::what_a_jobs_user_cannot_reach_is_a_problem";
    if !machine::is_root() {
        return machine::skip(test, "needs root, whose files another user cannot reach");
    }
    let sandbox = Sandbox::new();
    let file = sandbox.defines("[jobs.a]\ncommand = ['true']\nuser = 'daemon'\n");
    sandbox.run("other", &[], &["true"]).exits(0);
    let said = || {
        let found = Found::of(sandbox.triplock(["doctor", "--config"]).arg(&file).run());
        let about = |problem: &&Value| problem["problem"] == "user_cannot";
        found
            .problems
            .iter()
            .filter(about)
            .map(|problem| problem["message"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    mode(&sandbox.path(""), 0o700);
    let closed = said();
    let about = |all: &[String], fragment: &str| all.iter().any(|message| message.contains(fragment));
    assert!(about(&closed, "jobs.toml: line 3: job a: the job file"), "{closed:#?}");
    assert!(about(&closed, "user daemon may not pass"), "{closed:#?}");
    mode(&sandbox.path(""), 0o755);
    let private = said();
    assert!(about(&private, "the state directory") && about(&private, "chgrp -R triplock"), "{private:#?}");
    assert!(!about(&private, "the job file"), "{private:#?}");
    // The advice, with a group that there is.
    let gid = 1;
    std::os::unix::fs::chown(sandbox.state_dir(), Some(0), Some(gid)).unwrap();
    mode(sandbox.state_dir(), 0o2770);
    let shared = said();
    assert!(!about(&shared, "the state directory"), "{shared:#?}");
    // The program itself is where this test's user built it.
    assert!(shared.iter().all(|message| message.contains("the program ")), "{shared:#?}");
}

/// A machine with what `install` would write there, and the job file.
fn installed(words: &[&str], text: &str) -> (Tree, String) {
    let tree = Tree::new();
    let file = tree.sandbox.defines(text);
    let (program, file) = (TRIPLOCK, file.to_str().unwrap().to_owned());
    let words = ["install"].iter().chain(words).chain(&["--dry-run"]).copied().collect::<Vec<_>>();
    let written = report(&tree.sandbox.scheduling(&words).run());
    let tree = tree.program(program).with(&file, text);
    for written in written["files"].as_array().unwrap() {
        let path = written["path"].as_str().unwrap();
        let path = if path.starts_with('/') { path } else { "/var/spool/cron/crontabs/root" };
        tree.write(path, written["text"].as_str().unwrap().as_bytes());
    }
    (tree, file)
}

#[test]
fn an_installation_that_is_not_what_the_job_file_says_is_named() {
    let test = "doctor_jobs::an_installation_that_is_not_what_the_job_file_says_is_named";
    if !may_be_the_machine(test) {
        return;
    }
    let jobs = "[jobs.nightly]\ncommand = 'true'\ncron = ['15 3 * * *', '@weekly']\non_calendar = '*-*-* 03:15 UTC'\n";
    let mut ways = vec![&["cron", "nightly"][..], &["cron", "nightly", "--user"]];
    if machine::has(test, &["systemd-analyze"]) {
        ways.push(&["systemd", "nightly"]);
        ways.push(&["systemd", "nightly", "--hardened"]);
    }
    for words in ways {
        let (tree, file) = installed(words, jobs);
        let found = tree.examined();
        let stale = |found: &Found| {
            let of = |problem: &&Value| problem["problem"] == "stale_installation";
            let messages =
                found.problems.iter().filter(of).map(|problem| problem["message"].as_str().unwrap().to_owned());
            messages.collect::<Vec<_>>()
        };
        assert!(found.looked_at["scheduled"] != 0 && stale(&found).is_empty(), "{words:?}: {found:#?}");
        let with = |from: &str, to: &str| {
            tree.write(&file, jobs.replace(from, to).as_bytes());
            stale(&tree.examined())
        };
        let again = format!("`triplock install {} {} --config {file}", words[0], words[1..].join(" "));
        let again = again.replace(" --hardened", "").replace(&format!("--user --config {file}"), "--user --config");
        let (from, to) = if words[0] == "cron" { ("15 3", "16 3") } else { ("03:15", "03:16") };
        let [said] = &with(from, to)[..] else { panic!("{words:?}: {:#?}", tree.examined()) };
        assert!(said.contains(&again) && said.contains("is not what") && said.contains(to), "{words:?}: {said}");
        assert_eq!(said.contains("--hardened"), words.contains(&"--hardened"), "{said}");
        // Words alone change nothing.
        assert!(with("[jobs", "# x\n[jobs").is_empty());
        if !words.contains(&"--user") {
            let [said] = &with("command", "user = 'bob'\ncommand")[..] else {
                panic!("{words:?}: {:#?}", tree.examined())
            };
            assert!(said.contains("bob"), "{said}");
        }
        if words[0] == "systemd" {
            assert_eq!(with("command", "kill_after = '300s'\ncommand").len(), 1);
        }
        let key = if words[0] == "cron" { "cron = " } else { "on_calendar = " };
        let [said] = &with(key, "description = 'x' #")[..] else { panic!("{words:?}: {:#?}", tree.examined()) };
        assert!(
            said.contains("any more") && said.contains(&format!("`triplock uninstall {} nightly", words[0])),
            "{said}"
        );
        let gone = with("jobs.nightly", "jobs.other");
        assert!(gone.len() == 1 && gone[0].contains("triplock uninstall"), "{gone:#?}");
        fs::remove_file(tree.path(&file)).unwrap();
        let gone = stale(&tree.examined());
        assert!(gone.len() == 1 && gone[0].contains("put the job file back"), "{gone:#?}");
    }
}

#[test]
fn what_install_wrote_is_installed_again_and_not_edited() {
    if !may_be_the_machine("doctor_jobs::what_install_wrote_is_installed_again_and_not_edited") {
        return;
    }
    let text = "[jobs.nightly]\ncommand = 'dump --all'\ncron = '15 3 * * *'\n";
    let (tree, file) = installed(&["cron", "nightly"], text);
    let tree = tree.program("/opt/bin/dump");
    tree.has("program_not_found", &["write the program's whole path in the job file"]);
    let message = tree.examined().problems[0]["message"].as_str().unwrap().to_owned();
    assert!(!message.contains("set PATH there"), "{message}");
    let tree = tree.with(&file, &text.replace("dump --all", "/opt/bin/dump --all"));
    tree.is_well();
    // Another state directory than the machine's other line.
    let line = "TRIPLOCK_STATE_DIR=/other/t\n* * * * * root triplock history nightly\n";
    let tree = tree.with("/etc/cron.d/a", line);
    let again = format!("install it again: `triplock install cron nightly --config {file} --state-dir /other/t`");
    tree.has("two_locks", &["/etc/cron.d/a line 2 uses /other/t", &again]);
    fs::remove_file(tree.path(TRIPLOCK)).unwrap();
    fs::remove_file(tree.path("/etc/cron.d/a")).unwrap();
    tree.has(
        "program_not_found",
        &["/etc/cron.d/triplock-nightly line 4: there is no program", "install it again: `triplock"],
    );
}

#[test]
fn where_a_line_names_its_state_directory_the_variable_is_no_advice() {
    let tree = |dir: &str| {
        Tree::new()
            .cron("TRIPLOCK_STATE_DIR=/a/t", "bob triplock run nightly -- true")
            .with("/etc/cron.d/y", &format!("* * * * * bob triplock --state-dir {dir} run nightly -- true\n"))
    };
    tree("/b").has("two_locks", &["two locks; change --state-dir to /a/t in /etc/cron.d/y line 1"]);
    tree("/a/t").is_well();
}

#[test]
fn a_job_that_says_when_and_that_nothing_starts_is_a_note() {
    let tree = Tree::new();
    let text = "[jobs.a]\ncommand = ['true']\ncron = '@daily'\n[jobs.b]\ncommand = ['true']\n";
    let found = of_file(&tree, text);
    let [note] = &found.notes[..] else { panic!("{found:#?}") };
    assert!(
        note.contains("line 1: job a: says when, and nothing starts it; `triplock install cron a --config "),
        "{note}"
    );
    assert_eq!(found.finished.code(), Some(0));
    let tree = tree.cron(HERE, "bob triplock run a -- true");
    assert!(of_file(&tree, text).notes.is_empty());
}

#[test]
fn a_job_file_that_only_its_name_keeps_from_being_one_is_a_note() {
    let tree = Tree::new();
    let directory = tree.sandbox.path("jobs.d");
    fs::create_dir(&directory).unwrap();
    mode(&directory, 0o755);
    for name in ["x.conf", "x.toml.bak", "x.toml~", ".x", "x.old", "x.toml.dpkg-dist"] {
        fs::write(directory.join(name), "[jobs.a]\ncommand = ['true']\n").unwrap();
    }
    fs::write(directory.join("README"), "Job files are here.\n").unwrap();
    let found = Found::of(tree.doctor().arg("--config").arg(&directory).run());
    let [note] = &found.notes[..] else { panic!("{found:#?}") };
    assert!(note.ends_with("jobs.d/x.conf: is passed over: its name does not end in .toml"), "{note}");
    assert_eq!(found.finished.code(), Some(0));
}

#[test]
fn a_crontab_line_that_cron_does_not_understand_is_named() {
    let line = |line: &str| Tree::new().with("/etc/cron.d/x", &format!("{HERE}\n{line}\n"));
    for (wrong, fragment, right) in [
        ("61 2 * * * bob triplock run a -- true", "minute: ", "6 2 * * * bob triplock run a -- true"),
        ("@dayly bob triplock run a -- true", "cron knows no @dayly", "@daily bob triplock run a -- true"),
        ("0 2 * * bob triplock run a -- true", "day of week: ", "0 2 * * * bob triplock run a -- true"),
        (
            "0 2 * * * triplock run a -- true",
            "triplock stands where the user belongs",
            "0 2 * * * bob triplock run a -- true",
        ),
    ] {
        line(wrong).has("wrong_crontab_line", &["/etc/cron.d/x line 2: cron does not understand the line", fragment]);
        line(right).is_well();
    }
    // Nobody else's.
    line("61 2 * * * bob dump").is_well();
}

#[test]
fn a_variable_that_cron_does_not_expand_is_named() {
    let tree = |set: &str| Tree::new().cron(set, "bob triplock run a -- true");
    for value in ["$HOME/st", "~/st"] {
        tree(&format!("# x\nTRIPLOCK_STATE_DIR={value}"))
            .has("unexpanded_variable", &["/etc/cron.d/x line 2: cron expands nothing", value, "a whole path"]);
    }
    tree("TRIPLOCK_STATE_DIR=/s\nMAILTO=$USER").is_well();
    Tree::new().with("/etc/cron.d/x", "HOME=~/x\n* * * * * bob dump # triplock\n").is_well();
}

#[test]
fn a_system_crontab_that_others_may_write_is_named() {
    let tree = Tree::new().cron(HERE, "bob triplock run a -- true");
    let path = tree.path("/etc/cron.d/x");
    for open in [0o664, 0o646] {
        mode(&path, open);
        tree.has("cron_ignores", &["/etc/cron.d/x: may be written by others than root, so cron ignores", "chmod 644"]);
    }
    mode(&path, 0o640);
    tree.is_well();
    if machine::is_root() {
        std::os::unix::fs::chown(&path, Some(60123), None).unwrap();
        tree.has("cron_ignores", &["/etc/cron.d/x: is not root's, so cron ignores the file"]);
    }
}

#[test]
fn a_users_crontab_has_the_lines_that_crontab_shows() {
    let me = if machine::is_root() { "root" } else { "alice" };
    let header =
        "# DO NOT EDIT THIS FILE - edit the master and reinstall.\n# (/tmp/c installed on Mon)\n# (Cron version)\n";
    let lines = "# mine\nTRIPLOCK_STATE_DIR=/t\n@daily triplock run a -- true\n";
    for (header, number) in [(header, 3), ("", 3), ("#\n", 4)] {
        let tree = Tree::new().with(&format!("/var/spool/cron/crontabs/{me}"), &format!("{header}{lines}"));
        tree.has("two_locks", &[&format!("job a: {me}'s crontab line {number} uses /t and this shell uses")]);
    }
}

#[test]
fn su_is_understood() {
    let tree = |command: &str| {
        Tree::new()
            .cron("TRIPLOCK_STATE_DIR=/a/t", "bob triplock run nightly -- true")
            .with("/etc/cron.d/y", &format!("* * * * * root {command}\n"))
    };
    tree("su - bob -c 'triplock run nightly -- true'")
        .has("two_locks", &["/etc/cron.d/y line 1 uses /home/bob/.local/state/triplock"]);
    tree("su bob -c 'TRIPLOCK_STATE_DIR=/a/t triplock run nightly -- true'").is_well();
}

#[test]
fn a_state_directory_that_is_mounted_read_only_is_named() {
    let test = "doctor_jobs::a_state_directory_that_is_mounted_read_only_is_named";
    if !machine::is_root() || !machine::has(test, &["unshare", "mount"]) {
        return machine::skip(test, "needs root, to mount");
    }
    let sandbox = Sandbox::new();
    sandbox.run("a", &[], &["true"]).exits(0);
    let script = "set -e; mount -t tmpfs none \"$0\"; mkdir -m 700 \"$0/jobs\"; chmod 700 \"$0\"
        mount -o remount,$MODE none \"$0\"; exec \"$@\"";
    let look = |ro: &str| {
        let how = format!("MODE={ro}");
        let under = ["env", &how, "unshare", "--mount", "--propagation", "private", "sh", "-c", script];
        let state = sandbox.state_dir().to_str().unwrap();
        let found = Found::of(sandbox.triplock(["doctor"]).under(under.into_iter().chain([state])).run());
        let messages = found.problems.iter().filter(|problem| problem["problem"] == "read_only");
        messages.map(|problem| problem["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let [said] = &look("ro")[..] else { panic!("nothing was said") };
    let state = sandbox.state_dir().display();
    assert!(
        said.contains(&format!(
            "mounted read-only, so nothing can be booked and no run starts; `mount -o remount,rw {state}`"
        )),
        "{said}"
    );
    assert!(look("rw").is_empty());
}
