//! What `install` and `uninstall` say of what may go wrong, and that a look needs nothing.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
    process::Command,
};

use crate::{
    install::{NIGHTLY, complaint, may_be_private, report},
    machine,
    sandbox::Sandbox,
};

#[test]
fn the_command_for_root_means_what_the_environment_meant() {
    let test = "install_warnings::the_command_for_root_means_what_the_environment_meant";
    if !machine::has(test, &["setpriv"]) {
        return;
    }
    let sandbox = Sandbox::new().for_all_users();
    let place = sandbox.path("config/triplock/jobs.d");
    fs::create_dir_all(&place).expect("make directories");
    let file = place.join("a.toml");
    fs::write(&file, NIGHTLY).expect("write a job file");
    for path in [&place, place.parent().expect("a parent"), &sandbox.path("config")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("chmod");
    let mut words: Vec<OsString> = Vec::new();
    if machine::is_root() {
        words.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(OsString::from));
    }
    let variable = |name: &str, path: &Path| OsString::from(format!("{name}={}", path.display()));
    let variables = [variable("XDG_CONFIG_HOME", &sandbox.path("config")), "TRIPLOCK_STATE_DIR=/srv/a b".into()];
    words.extend(std::iter::once("env".into()).chain(variables));
    words.extend([sandbox.path("triplock").into_os_string(), "install".into(), "cron".into()]);
    words.extend(["nightly", "--system"].map(OsString::from));
    let output = Command::new(&words[0]).args(&words[1..]).output().expect("start it");
    let said = String::from_utf8_lossy(&output.stderr);
    let (program, file) = (sandbox.path("triplock"), file.display());
    let wanted =
        format!("`sudo {} --state-dir '/srv/a b' install cron nightly --system --config {file}`", program.display());
    assert!(said.contains(&wanted), "{said}");
    assert_eq!(output.status.code(), Some(77));
}

#[test]
fn a_store_that_only_this_shell_knows_is_said() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("a.toml");
    fs::write(&file, NIGHTLY).expect("write a job file");
    let warnings = |sandbox: &Sandbox| -> Vec<String> {
        let file = file.to_str().expect("UTF-8");
        let answer = sandbox.triplock(["install", "cron", "nightly", "--dry-run", "--config", file]).run();
        let report: serde_json::Value = serde_json::from_str(&answer.exits(0).stdout).expect("JSON");
        let said = report["warnings"].as_array().expect("an array");
        said.iter().map(|warning| warning.as_str().expect("a string").to_owned()).collect()
    };
    let about = "which the scheduler knows nothing of";
    assert!(!warnings(&sandbox).iter().any(|warning| warning.contains(about)));
    let sandbox = sandbox.with_store("redis://:s3cret@locks.example");
    let said = warnings(&sandbox).join("\n");
    assert!(
        said.contains("$TRIPLOCK_STORE names redis://locks.example:6379, which the scheduler")
            && !said.contains("s3cret"),
        "{said}"
    );
}

#[test]
fn a_dry_run_needs_no_cron() {
    let sandbox = Sandbox::new();
    sandbox.defines(NIGHTLY);
    for (command, files) in [("install", 1), ("uninstall", 0)] {
        let mut invocation = sandbox.triplock([command, "cron", "nightly", "--user", "--dry-run"]);
        if command == "install" {
            invocation = invocation.arg("--config").arg(sandbox.path("jobs.toml"));
        }
        let said = report(&invocation.under(["/usr/bin/env", "PATH=/nowhere"]).run());
        assert_eq!(said["files"].as_array().expect("files").len(), files, "{said}");
    }
}

#[test]
fn times_of_another_clock_than_the_schedulers_are_not_shown_in_silence() {
    let sandbox = Sandbox::new();
    sandbox.defines(NIGHTLY);
    let warnings = |zone: &str| {
        let words = ["install", "cron", "nightly", "--user", "--dry-run", "--config"];
        let invocation = sandbox.triplock(words).arg(sandbox.path("jobs.toml"));
        report(&invocation.under(["env", &format!("TZ={zone}")]).run())["warnings"].to_string()
    };
    assert!(warnings("<+0545>-5:45").contains("those of TZ=<+0545>-5:45, and cron goes by the machine's clock"));
    assert!(!warnings("").contains("the machine's clock"));
    if Path::new("/etc/localtime").exists() {
        assert!(!warnings(":/etc/localtime").contains("the machine's clock"));
    }
}

#[test]
fn without_a_cron_that_runs_it_is_said_that_nothing_will_start() {
    let test = "install_warnings::without_a_cron_that_runs_it_is_said_that_nothing_will_start";
    if !may_be_private(test) {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.defines(NIGHTLY);
    // In a namespace of its own no process but its own is to be seen.
    let alone = ["unshare", "--pid", "--fork", "--mount-proc"];
    let said = report(&sandbox.privately(&["install", "cron", "nightly"]).under(alone).run());
    assert!(said["warnings"].to_string().contains("cron does not seem to run"), "{said}");
    // Nor a state directory, for a unit in which nobody can make it.
    if machine::has(test, &["systemd-analyze"]) {
        let sandbox = sandbox.with_state("/no such/place");
        sandbox.defines(NIGHTLY);
        let dry = ["install", "systemd", "nightly", "--hardened", "--system", "--dry-run"];
        let said = report(&sandbox.scheduling(&dry).run());
        assert!(said["warnings"].to_string().contains("the state directory /no such/place: there is none"), "{said}");
    }
}

#[test]
fn what_a_stranger_could_change_is_said() {
    let test = "install_warnings::what_a_stranger_could_change_is_said";
    if !machine::is_root() {
        machine::skip(test, "needs root, to give a file away");
        return;
    }
    // (The copy of the program is the one that is started.)
    let sandbox = Sandbox::new().for_all_users();
    sandbox.defines(NIGHTLY);
    let dry = ["install", "cron", "nightly", "--system", "--dry-run"];
    let warnings = || report(&sandbox.scheduling(&dry).run())["warnings"].to_string();
    let theirs = "it is user daemon's, who could have anything run by root";
    assert!(!warnings().contains(theirs));
    chown(sandbox.path("triplock"), Some(1), None).expect("chown");
    assert!(warnings().contains(theirs), "{}", warnings());
}

#[test]
fn a_masked_timer_is_said_to_be_masked() {
    let test = "install_warnings::a_masked_timer_is_said_to_be_masked";
    if !may_be_private(test) || !machine::has(test, &["systemd-analyze"]) {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.defines(NIGHTLY);
    fs::create_dir(sandbox.path("units")).expect("make a directory");
    let unit = sandbox.path("units/triplock@nightly.timer");
    symlink("/dev/null", &unit).expect("make a link");
    let said = complaint(sandbox.privately(&["install", "systemd", "nightly", "--dry-run"]), 4);
    assert!(said.contains("is masked; `systemctl unmask` it"), "{said}");
}

#[test]
fn what_the_hardened_unit_would_not_find_in_its_own_tmp_is_said() {
    let test = "install_warnings::what_the_hardened_unit_would_not_find_in_its_own_tmp_is_said";
    if !machine::has(test, &["systemd-analyze"]) {
        return;
    }
    // (Whatever $TMPDIR is, this directory need only be named.)
    let sandbox = Sandbox::new().with_state("/var/tmp/of/mine");
    sandbox.defines(NIGHTLY);
    let warnings = |hardened: &[&str]| {
        let dry = ["install", "systemd", "nightly", "--system", "--dry-run"];
        let words: Vec<_> = dry.iter().chain(hardened).copied().collect();
        report(&sandbox.scheduling(&words).run())["warnings"].to_string()
    };
    let hidden = "the state directory /var/tmp/of/mine: the hardened unit has a /var/tmp of its own";
    assert!(warnings(&["--hardened"]).contains(hidden), "{}", warnings(&["--hardened"]));
    assert!(!warnings(&[]).contains("of its own"));
}

#[test]
fn a_users_name_means_itself_in_what_is_written() {
    let test = "install_warnings::a_users_name_means_itself_in_what_is_written";
    if !may_be_private(test) || !machine::has(test, &["systemd-analyze"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let passwd = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let others = "john doe:x:61234:61234::/:/bin/sh\n100%h:x:61235:61235::/:/bin/sh\n";
    fs::write(sandbox.path("passwd"), format!("{passwd}{others}")).expect("write users");
    let dry = |scheduler: &str, user: &str| {
        sandbox.defines(&format!("{NIGHTLY}user = '{user}'\n"));
        let words = ["install", scheduler, "nightly", "--system", "--dry-run"];
        let script = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";
        let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script].map(OsString::from);
        sandbox.scheduling(&words).under(unshare.into_iter().chain([sandbox.path("passwd").into_os_string()]))
    };
    let said = complaint(dry("cron", "john doe"), 78);
    assert!(said.contains("\"john doe\" has one; use `install systemd`"), "{said}");
    assert!(report(&dry("systemd", "john doe").run()).to_string().contains("\\nUser=john doe\\n"));
    assert!(report(&dry("systemd", "100%h").run()).to_string().contains("\\nUser=100%%h\\n"));
    assert!(report(&dry("cron", "100%h").run()).to_string().contains(" * * * 100%h "));
}
