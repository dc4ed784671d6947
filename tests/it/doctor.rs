//! `doctor` on machines that are made up. Each finding is shown together with the machine on which its fix was made, which
//! is well.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink};

use serde_json::Value;

use crate::{
    machine,
    made_up::{Found, HERE, Tree, UNITS, may_be_the_machine},
    sandbox::Sandbox,
};

#[test]
fn an_empty_machine_is_well() {
    let found = Tree::new().is_well();
    assert_eq!((found.notes.len(), &found.looked_at["scheduled"]), (0, &Value::from(0)));
}

#[test]
fn a_healthy_machine_is_well_without_a_word() {
    if !may_be_the_machine("doctor::a_healthy_machine_is_well_without_a_word") {
        return;
    }
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

#[test]
fn stores_that_differ_are_named_with_their_places() {
    let tree = |set: &str| {
        Tree::new()
            .cron("TRIPLOCK_STORE=redis://:s3cret@locks.example/2", "bob triplock run nightly -- true")
            .with("/etc/cron.d/y", &format!("{set}\n* * * * * bob triplock run nightly -- true\n"))
    };
    let problem = tree("# none").has(
        "two_stores",
        &[
            "job nightly: /etc/cron.d/x line 2 uses redis://locks.example:6379/2 and /etc/cron.d/y line 2 uses files: locks \
             that do not meet",
            "store = \"redis://locks.example:6379/2\" in /etc/triplock/config.toml",
        ],
    );
    assert_eq!((&problem["lock"], &problem["places"][1]["store"]), (&"job nightly".into(), &"files".into()));
    assert!(!problem.to_string().contains("s3cret"), "{problem}");
    // However they come to name it, and wherever their directories are.
    tree("TRIPLOCK_STORE=redis://:s3cret@locks.example/2").is_well();
    Tree::new()
        .cron(HERE, "bob triplock --store redis://locks.example/2 --state-dir /srv/x run nightly -- true")
        .with("/etc/cron.d/y", "TRIPLOCK_STORE=redis://locks.example/2\n* * * * * bob triplock run nightly -- true\n")
        .is_well();
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
    if !may_be_the_machine("doctor::a_program_that_a_scheduler_does_not_find_is_named (of a job)") {
        return;
    }
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
        &["/etc/cron.d/a.b: Debian's cron ignores a file with such a name; remove it, or rename it to /etc/cron.d/a-b"],
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
    let is_expected = |word: &&str| ["wrong_command_line", "wrong_crontab_line"].contains(word);
    assert!(words.keys().all(is_expected), "{found:#?}");
    for line in tree.doctor().in_text().run().stdout.lines() {
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    }
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

#[test]
fn however_much_stands_in_a_crontab_it_is_looked_at_in_part() {
    let tree = Tree::new().program("/usr/bin/triplock");
    let variables: Vec<_> = (0..400).map(|number| format!("V{number}={number}\n")).collect();
    let variables = variables.concat();
    let lines = "* * * * * root triplock --state-dir /s check a\n".repeat(4000);
    tree.write("/etc/cron.d/lines", format!("{variables}{lines}").as_bytes());
    let calls = format!("* * * * * root {}\n", "triplock --state-dir /s check a; ".repeat(7000));
    tree.write("/etc/cron.d/one-line", calls.as_bytes());
    let nested = format!("* * * * * root {} triplock --state-dir /s check a\n", "flock /x env ".repeat(19_000));
    tree.write("/etc/cron.d/nested", nested.as_bytes());
    let found = tree.examined();
    assert!(found.looked_at["scheduled"].as_u64().unwrap() < 2100, "{:?}", found.looked_at);
    assert!(found.notes.iter().any(|note| note.contains("has more than 1000 such lines")), "{:?}", found.notes);
}
