//! `install` and `uninstall`: what is printed, what is written, and what is refused.
//!
//! As root everything happens in a mount namespace of the process's own, in which /etc/cron.d and /etc/systemd/system are
//! directories of the sandbox and /run is empty.

use std::{
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    machine,
    sandbox::{Finished, Invocation, Sandbox, TRIPLOCK},
};

/// Mounts the sandbox's directories over the machine's, then becomes the command.
const PRIVATE: &str = r#"set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p "$0/cron.d" "$0/units"
if [ -d /etc/cron.d ]; then mount --bind "$0/cron.d" /etc/cron.d; fi
if [ -d /etc/systemd/system ]; then mount --bind "$0/units" /etc/systemd/system; fi
if [ -n "$BOOTED" ]; then mkdir -p /run/systemd/system; fi
exec "$@""#;

pub(crate) const NIGHTLY: &str =
    "[jobs.nightly]\ncommand = 'true'\ncron = '15 3 * * *'\non_calendar = '*-*-* 03:15 UTC'\n";

impl Sandbox {
    /// Its job file.
    pub(crate) fn defines(&self, text: &str) -> PathBuf {
        let path = self.path("jobs.toml");
        fs::write(&path, text).expect("write a job file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        path
    }

    /// A command about the jobs of that file, where the clock shows UTC.
    pub(crate) fn scheduling(&self, words: &[&str]) -> Invocation {
        let invocation = self.triplock(words).under(["env", "TZ=UTC"]);
        if words[0] == "install" { invocation.arg("--config").arg(self.path("jobs.toml")) } else { invocation }
    }

    /// The same where nothing is the machine's.
    pub(crate) fn privately(&self, words: &[&str]) -> Invocation {
        let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", PRIVATE].map(OsString::from);
        self.scheduling(words).under(unshare.into_iter().chain([self.path("").into_os_string()]))
    }

    /// A file of the private /etc/cron.d.
    fn cron_d(&self, name: &str) -> PathBuf {
        self.path("cron.d").join(name)
    }
}

#[track_caller]
pub(crate) fn report(finished: &Finished) -> Value {
    finished.exits(0);
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| finished.complain(&format!("no JSON: {e}")))
}

/// The message of the one line with which it fails.
#[track_caller]
pub(crate) fn complaint(invocation: Invocation, code: i32) -> String {
    invocation.fails(code)["message"].as_str().expect("a message").to_owned()
}

#[track_caller]
fn texts(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    report["files"].as_array().expect("files").iter().map(|file| (text(&file["path"]), text(&file["text"]))).collect()
}

#[track_caller]
pub(crate) fn changes(report: &Value) -> Vec<&str> {
    report["files"].as_array().expect("files").iter().map(|file| file["change"].as_str().expect("a change")).collect()
}

pub(crate) fn may_be_private(test: &str) -> bool {
    if !machine::is_root() {
        machine::skip(test, "needs root, for a mount namespace");
        return false;
    }
    machine::has(test, &["unshare", "mount"])
}

#[test]
fn a_dry_run_for_systemd_prints_units_that_systemd_verifies() {
    let test = "install::a_dry_run_for_systemd_prints_units_that_systemd_verifies";
    if !machine::has(test, &["systemd-analyze"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let sandbox = sandbox.with_state("/var/lib/a state/100%/$x\"");
    sandbox.defines(&format!("{NIGHTLY}kill_after = 90\n"));
    let report =
        report(&sandbox.scheduling(&["install", "systemd", "nightly", "--system", "--hardened", "--dry-run"]).run());
    let units = sandbox.path("verified");
    let mut all = String::new();
    for (path, text) in texts(&report) {
        let path = units.join(Path::new(&path).strip_prefix("/etc/systemd/system").expect("a system unit"));
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        all.push_str(&text);
        fs::write(path, text).expect("write a unit");
    }
    for wanted in ["OnCalendar=\nOnCalendar=*-*-* 03:15 UTC\n", "TimeoutStopSec=110\n", "triplock run nightly"] {
        let wanted = wanted.replace("nightly", "%i");
        assert!(all.contains(&wanted), "{wanted} in {all}");
    }
    // The program's path is the one by which it was started.
    assert!(all.contains(&format!("ExecStart={TRIPLOCK} run %i")), "{all}");
    let verify = |unit: &str| {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--recursive-errors=yes", unit]);
        let unit_path = format!("{}:", units.display());
        let output = command.env("SYSTEMD_UNIT_PATH", unit_path).output().expect("start systemd-analyze");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Units of the machine that it knows nothing of are not ours.
        let ours: Vec<_> = said.lines().filter(|line| line.contains("triplock")).collect();
        assert!(ours.is_empty(), "{unit}: {ours:?}");
    };
    for unit in ["triplock@nightly.timer", "triplock@nightly.service", "triplock-failure@nightly.service"] {
        verify(unit);
    }
    // The escapes mean what they are to mean: systemd reads the state directory back as it is.
    assert!(all.contains(r#"Environment="TRIPLOCK_STATE_DIR=/var/lib/a state/100%%/$x\"""#), "{all}");
    assert!(all.contains(&format!("--config {}", sandbox.path("jobs.toml").display())), "{all}");
}

#[test]
fn the_next_five_times_are_shown_with_what_the_clock_does() {
    let test = "install::the_next_five_times_are_shown_with_what_the_clock_does";
    let sandbox = Sandbox::new();
    sandbox.defines("[jobs.a]\ncommand = 'true'\ncron = '30 2 * * *'\non_calendar = '*-*-* 02:30'\n");
    let zoned = |words: &[&str]| {
        let dry = words.iter().copied().chain(["--dry-run", "--config"]);
        sandbox.triplock(dry).arg(sandbox.path("jobs.toml")).under(["env", "TZ=Europe/Berlin"])
    };
    let mut schedulers =
        vec![("cron", "cron starts the job right after it", "cron starts the job the first time only")];
    if machine::has(test, &["systemd-analyze"]) {
        let gap = "systemd leaves it out and does not make up for it";
        schedulers.push(("systemd", gap, "systemd starts the job the first time only"));
    }
    for (scheduler, gap, repeat) in schedulers {
        let report = report(&zoned(&["install", scheduler, "a", "--user"]).run());
        let next = report["next"].as_array().expect("times");
        assert_eq!(next.len(), 5, "{report}");
        for time in next {
            let time = time["time"].as_str().expect("a time");
            // The gap's is made up for, if the day is among the next.
            assert!(time.contains("T02:30:00+0") || time.contains("T03:00:00+02:00"), "{time}");
        }
        let changes = report["clock_changes"].as_array().expect("changes");
        let effect = |kind: &str| {
            let change = changes.iter().find(|change| change["kind"] == kind);
            change.unwrap_or_else(|| panic!("no {kind} in {report}"))["effect"].clone()
        };
        assert_eq!((effect("gap"), effect("repeat")), (gap.into(), repeat.into()));
        let shown = zoned(&["install", scheduler, "a", "--user"]).in_text().exits(0).stdout;
        assert_eq!(shown.matches(" 02:30:00 +0").count() + shown.matches(" 03:00:00 +02").count(), 5, "{shown}");
        assert!(shown.contains("is skipped: the clock is put forward; "), "{shown}");
        assert!(shown.contains("to see it: "), "{shown}");
    }
}

#[test]
fn wrong_times_users_and_jobs_are_refused_with_file_and_line() {
    let test = "install::wrong_times_users_and_jobs_are_refused_with_file_and_line";
    let sandbox = Sandbox::new();
    let file = sandbox.defines(
        "[jobs.a]\ncommand = 'true'\ncron = '0 0 3 * * *'\non_calendar = 'sometimes'\n\
         [jobs.b]\ncommand = 'true'\n\
         [jobs.c]\ncommand = 'true'\ncron = '@daily'\nuser = 'no-such-user'\n\
         [jobs.d]\ncommand = 'true'\ncron = '@daily'\nuser = 'daemon'\n",
    );
    let file = file.display();
    let cron =
        |job: &str, scope: &str| complaint(sandbox.scheduling(&["install", "cron", job, scope, "--dry-run"]), 78);
    assert_eq!(
        cron("a", "--user"),
        format!(
            "{file}: line 3: job a: cron: \"0 0 3 * * *\": six fields: crontab(5) has no seconds and no years; \
             give minute, hour, day of month, month, day of week"
        )
    );
    let none = format!("{file}: line 5: job b: there is no cron, so nothing says when; add cron = ");
    assert!(cron("b", "--user").starts_with(&none));
    let unknown = format!("{file}: line 10: job c: user: there is no user no-such-user");
    assert_eq!(cron("c", "--system"), unknown);
    assert!(cron("d", "--user").contains("line 14: job d: user: the job is user daemon's"));
    let systemd =
        |job: &str, code| complaint(sandbox.scheduling(&["install", "systemd", job, "--user", "--dry-run"]), code);
    if machine::has(test, &["systemd-analyze"]) {
        assert!(
            systemd("a", 78)
                .starts_with(&format!("{file}: line 4: job a: on_calendar: \"sometimes\": no calendar event"))
        );
    }
    assert!(systemd("b", 78).starts_with(&format!("{file}: line 5: job b: there is no on_calendar")));
    assert!(complaint(sandbox.scheduling(&["install", "cron", "e"]), 66).contains("no such job: e; "));
    let escaped = complaint(sandbox.triplock(["run", r"my\x2djob"]), 125);
    assert!(escaped.contains("names are not; my-job is meant"), "{escaped}");
    assert!(
        complaint(sandbox.scheduling(&["install", "cron", "d", "--hardened"]), 64)
            .contains("--hardened is about units")
    );
}

#[test]
fn without_its_tool_systemds_calendar_cannot_be_told() {
    let sandbox = Sandbox::new();
    sandbox.defines(NIGHTLY);
    let dry = ["install", "systemd", "nightly", "--user", "--dry-run", "--config"];
    let invocation = sandbox.triplock(dry).arg(sandbox.path("jobs.toml"));
    let said = complaint(invocation.under(["/usr/bin/env", "PATH=/nowhere"]), 71);
    assert!(said.starts_with("systemd-analyze is missing"), "{said}");
}

#[test]
fn a_crontab_line_says_what_the_shell_is_to_read() {
    let sandbox = Sandbox::new().with_state("/state of 100%/it's");
    sandbox.defines("[jobs.'a.b_c']\ncommand = 'true'\ncron = ['*/5 * * * *', '@reboot']\n");
    let dry = ["install", "cron", "a.b_c", "--system", "--dry-run"];
    let files = texts(&report(&sandbox.scheduling(&dry).run()));
    let [(path, text)] = &files[..] else { panic!("{files:?}") };
    assert_eq!(path, "/etc/cron.d/triplock-a_db__c");
    let config = sandbox.path("jobs.toml");
    let command = format!(
        r"{TRIPLOCK} --state-dir '/state of 100\%/it'\''s' run a.b_c --config {} --output on-failure",
        config.display()
    );
    for line in [format!("*/5 * * * * root {command}\n"), format!("@reboot root {command}\n"), "SHELL=/bin/sh\n".into()]
    {
        assert!(text.contains(&line), "{line} in {text}");
    }
    // Debian's own check, of a user's crontab.
    let user = texts(&report(&sandbox.scheduling(&["install", "cron", "a.b_c", "--user", "--dry-run"]).run()));
    let path = sandbox.path("crontab");
    fs::write(&path, &user[0].1).expect("write a crontab");
    let said = Command::new("crontab").arg("-n").arg(&path).output();
    if said.as_ref().is_ok_and(|said| !String::from_utf8_lossy(&said.stderr).contains("invalid option")) {
        let said = said.expect("just looked at");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
}

#[test]
fn a_job_of_another_user_is_that_users_and_what_the_user_cannot_reach_is_said() {
    let test = "install::a_job_of_another_user_is_that_users_and_what_the_user_cannot_reach_is_said";
    let sandbox = Sandbox::new();
    sandbox.defines(&format!("{NIGHTLY}user = 'daemon'\n"));
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o700)).expect("chmod");
    let dry =
        |scheduler| report(&sandbox.scheduling(&["install", scheduler, "nightly", "--system", "--dry-run"]).run());
    let cron = dry("cron");
    assert!(texts(&cron)[0].1.contains("\n15 3 * * * daemon "), "{cron}");
    let closed = format!("user daemon may not pass {}", sandbox.path("").display());
    let closed = closed.trim_end_matches('/');
    let warnings = cron["warnings"].as_array().expect("warnings");
    let about = |what: &str| {
        let warning = |warning: &&Value| warning.as_str().is_some_and(|text| text.starts_with(what));
        warnings.iter().find(warning).and_then(Value::as_str).unwrap_or_default()
    };
    assert!(about("the job file ").contains(closed), "{cron}");
    if machine::has(test, &["systemd-analyze"]) {
        let systemd = dry("systemd");
        let service = "/etc/systemd/system/triplock@nightly.service.d/10-triplock.conf";
        let (_, unit) = texts(&systemd).into_iter().find(|(path, _)| path == service).expect("the service's drop-in");
        assert!(unit.ends_with("\nUser=daemon\n"), "{unit}");
    }
}

#[test]
fn a_path_that_cannot_be_written_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.defines(NIGHTLY);
    let dry = |scheduler| ["install", scheduler, "nightly", "--system", "--dry-run"];
    let sandbox = sandbox.with_state("/a\nb");
    let said = complaint(sandbox.scheduling(&dry("cron")), 78);
    assert!(said.contains("no line of a crontab can"), "{said}");
    let sandbox = sandbox.with_state(OsString::from_vec(b"/a\xff".to_vec()));
    assert!(complaint(sandbox.scheduling(&dry("cron")), 78).contains("is not UTF-8"));
}

#[test]
fn what_could_never_run_is_not_installed() {
    let test = "install::what_could_never_run_is_not_installed";
    if !may_be_private(test) {
        return;
    }
    let sandbox = Sandbox::new();
    let file = sandbox.defines(
        "[jobs.gone]\ncommand = ['/no/such/dump', '-a']\ncron = '@daily'\n\
         [jobs.plain]\ncommand = ['no-such-dump']\ncron = '@daily'\n\
         [jobs.home]\ncommand = ['~/bin/dump']\ncron = '@daily'\n\
         [jobs.there]\ncommand = ['env', 'true']\ncron = '@daily'\n",
    );
    for (job, line, wanted) in [
        ("gone", 1, "its program /no/such/dump is not there, or nobody may execute it; "),
        ("plain", 4, "its program no-such-dump is not where the scheduler looks (/usr/local/sbin:"),
        ("home", 7, "its program ~/bin/dump depends on the directory in which it is started, and nothing is expanded"),
    ] {
        let wanted = format!("{}: line {line}: job {job}: {wanted}", file.display());
        let said = complaint(sandbox.privately(&["install", "cron", job]), 78);
        assert!(said.starts_with(&wanted), "{said}");
        assert!(!sandbox.cron_d(&format!("triplock-{job}")).exists());
        // Who only looks may put it there later.
        let report = report(&sandbox.privately(&["install", "cron", job, "--dry-run"]).run());
        assert!(report["warnings"][0].as_str().unwrap().starts_with(&wanted), "{report}");
    }
    assert_eq!(changes(&report(&sandbox.privately(&["install", "cron", "there"]).run())), ["written"]);
    fs::create_dir(sandbox.state_dir()).expect("make a directory");
    fs::set_permissions(sandbox.state_dir(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let said = complaint(sandbox.privately(&["install", "cron", "there"]), 77);
    assert!(said.contains("is writable by everybody"), "{said}");
}

#[test]
fn a_program_that_was_deleted_is_not_installed() {
    let sandbox = Sandbox::new().for_all_users();
    sandbox.defines(NIGHTLY);
    let dry = ["install", "cron", "nightly", "--user", "--dry-run", "--config"];
    let invocation = sandbox.triplock(dry).arg(sandbox.path("jobs.toml"));
    // The descriptor starts it when its name is gone.
    let script = "exec 9<\"$1\" && rm \"$1\" && shift && exec /proc/self/fd/9 \"$@\"";
    let said = complaint(invocation.under(["bash", "-c", script, "bash"]), 78);
    assert!(said.contains("/triplock: missing binary path: "), "{said}");
}

#[test]
fn a_link_to_the_program_is_kept() {
    let sandbox = Sandbox::new();
    sandbox.defines(NIGHTLY);
    let bin = sandbox.path("bin");
    fs::create_dir(&bin).expect("make a directory");
    let link = bin.join("triplock");
    std::os::unix::fs::symlink(TRIPLOCK, &link).expect("make a link");
    let found = |words: &[&str], before: &[OsString]| {
        let dry = ["install", "cron", "nightly", "--user", "--dry-run", "--json", "--config"];
        let shell = words.iter().map(OsString::from).chain(dry.map(OsString::from));
        let all: Vec<_> = before.iter().cloned().chain(shell).chain([sandbox.path("jobs.toml").into()]).collect();
        let output = Command::new(&all[0]).args(&all[1..]).output().expect("start env");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        texts(&report).remove(0).1
    };
    let path = format!("PATH={}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
    let by_path = found(&["triplock"], &["env".into(), path.into()]);
    let by_name = found(&["./bin/triplock"], &["env".into(), "-C".into(), sandbox.path("").into()]);
    for text in [by_path, by_name] {
        assert!(text.contains(&format!(" {} --state-dir ", link.display())), "{text}");
    }
}

#[test]
fn an_installed_line_is_updated_and_removed_and_nothing_else_is() {
    let test = "install::an_installed_line_is_updated_and_removed_and_nothing_else_is";
    if !may_be_private(test) {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.defines(NIGHTLY);
    let install = || report(&sandbox.privately(&["install", "cron", "nightly"]).run());
    assert_eq!(changes(&install()), ["written"]);
    let file = sandbox.cron_d("triplock-nightly");
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o644);
    assert_eq!(changes(&install()), ["unchanged"]);
    sandbox.defines(&NIGHTLY.replace("15 3 * * *", "20 4 * * *"));
    assert_eq!(changes(&install()), ["updated"]);
    let line = fs::read_to_string(&file).expect("read it");
    assert!(line.contains("\n20 4 * * * root ") && !line.contains("15 3"), "{line}");
    // Whatever stands beside it is nobody's business.
    fs::write(sandbox.cron_d("other"), "x").expect("write");
    // Edited: not overwritten, not removed.
    fs::write(&file, line.replace("20 4", "21 4")).expect("edit it");
    for command in [&["install", "cron", "nightly"][..], &["uninstall", "cron", "nightly"]] {
        let said = complaint(sandbox.privately(command), 4);
        assert!(said.contains("was edited since triplock wrote it"), "{said}");
    }
    fs::write(&file, "0 0 * * * root true\n").expect("replace it");
    for command in [&["install", "cron", "nightly"][..], &["uninstall", "cron", "nightly"]] {
        let said = complaint(sandbox.privately(command), 4);
        assert!(said.starts_with("/etc/cron.d/triplock-nightly: is not a file that triplock wrote"), "{said}");
    }
    fs::write(&file, &line).expect("put it back");
    let uninstall = || report(&sandbox.privately(&["uninstall", "cron", "nightly"]).run());
    assert_eq!(changes(&uninstall()), ["removed"]);
    assert_eq!(changes(&uninstall()), Vec::<&str>::new());
    let left: Vec<_> =
        fs::read_dir(sandbox.path("cron.d")).expect("list").map(|e| e.expect("list").file_name()).collect();
    assert_eq!(left, ["other"]);
}

#[test]
fn where_no_systemd_runs_nothing_is_written() {
    let test = "install::where_no_systemd_runs_nothing_is_written";
    if !may_be_private(test) || !machine::has(test, &["systemd-analyze", "systemctl"]) {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.defines(NIGHTLY);
    let said = complaint(sandbox.privately(&["install", "systemd", "nightly"]), 71);
    assert!(said.starts_with("no systemd runs on this machine; use `install cron`, or --dry-run"), "{said}");
    let said = complaint(sandbox.privately(&["install", "systemd", "nightly", "--user"]), 71);
    assert!(said.starts_with("no systemd runs for this user"), "{said}");
    assert!(!report(&sandbox.privately(&["install", "systemd", "nightly", "--dry-run"]).run())["files"].is_null());
    // One that seems to run and does not answer: everything is put back.
    let invocation = sandbox.privately(&["install", "systemd", "nightly"]).under(["env", "BOOTED=1"]);
    let said = complaint(invocation, 71);
    assert!(said.starts_with("systemctl daemon-reload failed, so nothing was changed: "), "{said}");
    assert_eq!(fs::read_dir(sandbox.path("units")).expect("list").count(), 0);
}

#[test]
fn a_unit_of_somebody_else_is_left_alone() {
    let test = "install::a_unit_of_somebody_else_is_left_alone";
    if !may_be_private(test) || !machine::has(test, &["systemd-analyze"]) {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.defines(NIGHTLY);
    fs::create_dir(sandbox.path("units")).expect("make a directory");
    let names = ["triplock@nightly.timer", "triplock@nightly.service", "triplock@nightly.timer.d/10-triplock.conf"];
    for name in names {
        let path = sandbox.path("units").join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        fs::write(&path, "[Unit]\n").expect("write a unit");
        let said = complaint(sandbox.privately(&["install", "systemd", "nightly", "--dry-run"]), 4);
        assert!(said.starts_with(&format!("/etc/systemd/system/{name}: is ")), "{said}");
        assert_eq!(fs::read_to_string(&path).expect("read it"), "[Unit]\n");
        fs::remove_file(path).expect("remove it");
    }
}

#[test]
fn without_rights_the_command_to_run_is_said() {
    let test = "install::without_rights_the_command_to_run_is_said";
    let sandbox = Sandbox::new().for_all_users();
    let file = sandbox.defines(&format!("{NIGHTLY}user = 'daemon'\n"));
    let mut invocation = sandbox.scheduling(&["install", "cron", "nightly", "--system"]);
    if machine::is_root() {
        if !machine::has(test, &["setpriv"]) {
            return;
        }
        // The job file is root's, which is as good as one's own.
        invocation = invocation.under(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    let said = complaint(invocation, 77);
    let program = sandbox.path("triplock");
    let (program, state, file) = (program.display(), sandbox.state_dir().display(), file.display());
    let wanted = format!(
        "`sudo {program} --json --state-dir {state} install cron nightly --system --config {file}`, or use --user"
    );
    assert!(said.ends_with(&wanted), "{said}");
}
