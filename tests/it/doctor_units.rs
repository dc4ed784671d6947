//! What `doctor` makes of systemd's units.

use std::{fs, os::unix::fs::symlink};

use crate::{
    machine,
    made_up::{HERE, Tree, UNITS, may_be_the_machine},
};

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
    if !may_be_the_machine("doctor_units::each_way_to_choose_a_state_directory_is_understood (config.toml)") {
        return;
    }
    let tree = Tree::new().cron(HERE, "root triplock run nightly -- true").service("n.service", &exec(run, "User=bob"));
    let tree = tree.with("/etc/triplock/config.toml", "state_dir = '/m'\n");
    assert_eq!(tree.has("two_locks", &[])["places"][1]["state_dir"], "/m");
    let tree = tree.with("/home/bob/.config/triplock/config.toml", "state_dir = '/u'\n");
    assert_eq!(tree.has("two_locks", &[])["places"][1]["state_dir"], "/u");
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
    // A unit that only another one starts.
    let next = |key: &str| {
        Tree::new()
            .program("/usr/bin/triplock")
            .service(
                "a.service",
                &format!("ExecStart=/usr/bin/triplock --state-dir /s run a -- true\n[Unit]\n{key}=b@x.service"),
            )
            .service("b@.service", "ExecStart=/usr/bin/triplock --state-dir /t run a -- true")
    };
    for key in ["OnFailure", "OnSuccess"] {
        next(key).has("two_locks", &["job a: ", "a.service", "b@x.service"]);
    }
    // With full privileges a command is in no sandbox.
    let tree = Tree::new();
    let state = tree.sandbox.state_dir().display().to_string();
    let line = format!("ExecStart=+/usr/bin/triplock --state-dir {state} run a -- true\nProtectSystem=strict");
    tree.service("a.service", &line).is_well();
    // The hardened unit that is ours is open where it must be.
    if !may_be_the_machine("doctor_units::a_sandbox_that_hides_or_closes_the_state_directory_is_named (of ours)") {
        return;
    }
    let tree = Tree::new()
        .with(&format!("{UNITS}/triplock@.service"), include_str!("../../systemd/triplock@.service"))
        .with(&format!("{UNITS}/triplock@a.service.d/hardened.conf"), include_str!("../../systemd/hardened.conf"))
        .with(&format!("{UNITS}/triplock@a.service.d/user.conf"), "[Service]\nUser=bob\n")
        .job("[jobs.a]\ncommand = ['/usr/bin/triplock']\n");
    tree.is_well();
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
