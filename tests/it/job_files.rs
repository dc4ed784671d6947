//! Jobs that files define, `config.toml`, and `doctor`, as whole processes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    machine,
    sandbox::{Finished, Invocation, Sandbox, TRIPLOCK},
};

/// A sandbox with the configuration of a user.
struct User {
    sandbox: Sandbox,
    home: PathBuf,
}

impl User {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let home = sandbox.path("config");
        let user = Self { sandbox, home };
        user.directory("");
        user
    }

    fn directory(&self, path: &str) -> PathBuf {
        let mut full = self.home.clone();
        for part in ["triplock", "jobs.d"].iter().copied().chain(path.split('/').filter(|part| !part.is_empty())) {
            fs::create_dir_all(&full).unwrap();
            full.push(part);
        }
        fs::create_dir_all(&full).unwrap();
        for path in [self.home.clone(), self.home.join("triplock"), self.home.join("triplock/jobs.d")] {
            mode(&path, 0o755);
        }
        full
    }

    /// A file below the user's `triplock/`.
    fn with(self, path: &str, text: &str) -> Self {
        let path = self.path(path);
        fs::write(&path, text).unwrap();
        mode(&path, 0o644);
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.home.join("triplock").join(path)
    }

    fn triplock(&self, args: &[&str]) -> Invocation {
        let home = format!("XDG_CONFIG_HOME={}", self.home.display());
        self.sandbox.triplock(args).under(["env", "-u", "TRIPLOCK_CONFIG", &home])
    }

    /// triplock without `--state-dir`.
    fn bare(&self, args: &[&str]) -> std::process::Output {
        let mut command = Command::new(TRIPLOCK);
        command.env_clear().env("HOME", self.sandbox.path("home")).env("XDG_CONFIG_HOME", &self.home);
        command.env("XDG_STATE_HOME", self.sandbox.path("xdg-state")).args(args).output().unwrap()
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The lines that `doctor` printed.
fn lines(finished: &Finished) -> Vec<Value> {
    finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_job_of_a_file_is_run_by_its_name() {
    let ran = |user: &User| fs::read_to_string(user.sandbox.path("ran")).unwrap_or_default();
    let user = User::new();
    let to = user.sandbox.path("ran");
    let user = user.with(
        "jobs.d/a.toml",
        &format!("[jobs.nightly]\ndescription = 'writes'\ncommand = 'echo $TRIPLOCK_JOB >> {}'\n", to.display()),
    );
    let nothing = user.triplock(&["run", "nightly"]).run();
    assert_eq!((nothing.code(), nothing.stdout.as_str(), nothing.stderr.as_str()), (Some(0), "", ""));
    assert_eq!(ran(&user), "nightly\n");

    // A command on the line is another job under the same name.
    let error = user.triplock(&["run", "nightly", "--", "true"]).fails(125);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("a.toml (line 1); leave the command out"), "{message}");

    let error = user.triplock(&["run", "nigthly"]).fails(125);
    assert_eq!((&error["error"], &error["job"]), (&"no_such_job".into(), &"nigthly".into()));
    assert!(error["message"].as_str().unwrap().ends_with("did you mean nightly?"), "{error}");
    assert_eq!(ran(&user), "nightly\n");
}

#[test]
fn another_users_job_is_run_with_a_warning() {
    let own = rustix::process::geteuid().as_raw();
    let other = if own == 1 { "root" } else { "daemon" };
    let user = User::new().with("jobs.d/a.toml", &format!("[jobs.a]\ncommand = 'true'\nuser = '{other}'\n"));
    let run = user.triplock(&["run", "a"]).in_text().run();
    run.exits(0);
    assert!(run.stderr.ends_with(&format!("next time: sudo -u {other} triplock run a\n")), "{run:?}");
    let user = user.with("jobs.d/a.toml", &format!("[jobs.a]\ncommand = 'true'\nuser = '{own}'\n"));
    assert_eq!(user.triplock(&["run", "a"]).in_text().run().exits(0).stderr, "");
}

#[test]
fn a_job_that_never_ran_is_shown_all_the_same() {
    let user = User::new().with("jobs.d/a.toml", "[jobs.b]\ncommand = ['true']\n[jobs.a]\ncommand = ['true']\n");
    let shown = |user: &User, args: &[&str]| {
        let finished = user.triplock(args).run();
        finished.exits(0);
        let jobs = lines(&finished).into_iter();
        jobs.map(|job| format!("{} {} {}", job["job"], job["state"], job["last"]["outcome"])).collect::<Vec<_>>()
    };
    let never = ["\"a\" \"idle\" null", "\"b\" \"idle\" null"];
    assert_eq!(shown(&user, &["status"]), never, "without a state directory");
    user.triplock(&["run", "b"]).run().exits(0);
    assert_eq!(shown(&user, &["status"]), [never[0], "\"b\" \"idle\" \"succeeded\""]);
    assert_eq!(shown(&user, &["status", "a"]), never[..1]);
    let table = user.triplock(&["status", "a"]).in_text().run();
    assert!(table.stdout.contains("never run"), "{table:?}");
    user.triplock(&["status", "c"]).fails(66);
}

/// What `status` lists, no other command calls unknown.
#[test]
fn a_job_that_never_ran_is_no_unknown_job() {
    let user =
        User::new().with("jobs.d/a.toml", "[jobs.nightly]\ncommand = ['true']\n[jobs.other]\ncommand = ['true']\n");
    let said = |args: &[&str], code: i32| {
        let finished = user.triplock(args).in_text().run();
        finished.exits(code);
        (finished.stdout, finished.stderr)
    };
    // Without a state directory, and with one.
    for _ in 0..2 {
        let not_yet = "triplock: nightly: it has not run yet\n".to_owned();
        assert_eq!(said(&["history", "nightly"], 0), (String::new(), not_yet.clone()));
        let free = "job nightly: nobody holds the lock\n".to_owned();
        assert_eq!(said(&["status", "--why", "nightly"], 0), (free, not_yet));
        let no_log = "triplock: no log of job nightly: it has not run yet\n".to_owned();
        assert_eq!(said(&["logs", "nightly"], 66), (String::new(), no_log));
        let nothing = "triplock: nightly: nothing to stop: it has not run yet\n".to_owned();
        assert_eq!(said(&["stop", "nightly"], 4), (String::new(), nothing));
        assert_eq!(user.triplock(&["history", "nightly"]).run().exits(0).stdout, "");
        let why = lines(user.triplock(&["status", "--why", "nightly"]).run().exits(0));
        assert_eq!((why.len(), &why[0]["kind"], &why[0]["state"]), (1, &"job".into(), &"free".into()), "{why:?}");
        assert_eq!(user.triplock(&["stop", "nightly"]).fails(4)["error"], "not_running");
        // A slip is a slip, whether what was meant has run or not.
        for command in [&["history"][..], &["status", "--why"], &["stop"]] {
            let error = user.triplock(&[command, &["nigthly"]].concat()).fails(66);
            assert!(error["message"].as_str().unwrap().ends_with("did you mean nightly?"), "{error}");
        }
        user.triplock(&["run", "other"]).run().exits(0);
    }
}

#[test]
fn what_the_file_says_counts_unless_the_command_line_says_otherwise() {
    let user =
        User::new().with("jobs.d/a.toml", "[jobs.slow]\ncommand = ['sleep', '30']\ntime_limit = 0.1\nkill_after = 5\n");
    assert_eq!(user.triplock(&["run", "slow"]).run().code(), Some(124));
    let again = user.triplock(&["run", "slow", "--signal", "KILL"]).run();
    assert!(again.code() == Some(137), "{again:?}");
    let contradiction = user.triplock(&["run", "slow", "--retry-delay", "5", "--retry-max-delay", "1"]).fails(125);
    assert!(contradiction["message"].as_str().unwrap().contains("the retry delay is longer"), "{contradiction}");
}

#[test]
fn a_mistake_stops_its_job_with_its_line_and_no_others() {
    let user = User::new()
        .with("jobs.d/good.toml", "[jobs.good]\ncommand = ['true']\n")
        .with("jobs.d/bad.toml", "[jobs.bad]\ncommand = ['true']\nretrys = 3\n[jobs.beside]\ncommand = ['true']\n")
        .with("jobs.d/torn.toml", "[jobs.torn]\ncommand = ['true'\n");
    for (job, line) in [
        ("bad", "bad.toml: line 3: job bad: unknown key \"retrys\"; did you mean retries?"),
        ("torn", "torn.toml: line 2: not TOML"),
    ] {
        for command in [&[][..], &["--", "true"]] {
            let error = user.triplock(&[&["run", job], command].concat()).fails(125);
            assert_eq!(error["error"], "bad_configuration", "{error}");
            assert!(error["message"].as_str().unwrap().contains(line), "{error}");
        }
    }
    for good in ["good", "beside"] {
        assert_eq!(user.triplock(&["run", good]).run().code(), Some(0));
    }
    // None of the four is missing from the history.
    let history = user.triplock(&["history", "--failed"]).run().stdout;
    assert_eq!(history.matches("\"outcome\":\"refused\"").count(), 4, "{history}");
    assert_eq!(user.triplock(&["run", "other", "--", "true"]).run().code(), Some(0));
}

#[test]
fn a_path_that_is_named_replaces_the_others() {
    let user = User::new().with("jobs.d/a.toml", "[jobs.a]\ncommand = ['true']\n");
    let other = user.sandbox.path("other.conf");
    fs::write(&other, "[jobs.b]\ncommand = ['true']\n").unwrap();
    mode(&other, 0o644);
    let path = other.to_str().unwrap();
    assert_eq!(user.triplock(&["run", "b", "--config", path]).run().code(), Some(0));
    let variable = format!("TRIPLOCK_CONFIG={path}");
    assert_eq!(user.sandbox.triplock(["run", "b"]).under(["env", &variable]).run().code(), Some(0));
    assert_eq!(user.triplock(&["run", "a", "--config", path]).fails(125)["error"], "no_such_job");
    let error = user.triplock(&["run", "a", "--config", "/none/such"]).fails(125);
    assert_eq!((&error["error"], &error["path"]), (&"bad_configuration".into(), &"/none/such".into()));
}

#[test]
fn the_machines_files_are_read() {
    let test = "job_files::the_machines_files_are_read";
    if !machine::has(test, &["unshare", "mount"]) {
        return;
    }
    let user = User::new();
    let unshare: &[&str] = if machine::is_root() { &["unshare", "-m"] } else { &["unshare", "-rm"] };
    let tried = Command::new(unshare[0]).args(&unshare[1..]).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        return machine::skip(test, "may not mount in a namespace of its own");
    }
    // An /etc of its own, which nobody else sees.
    let script = "umask 022; mount -t tmpfs none /etc && mkdir -p /etc/triplock/jobs.d &&
        printf '[jobs.machine]\\ncommand = [\"true\"]\\n' > /etc/triplock/jobs.d/x.toml &&
        printf 'state_dir = \"%s\"\\n' \"$STATE\" > /etc/triplock/config.toml && exec \"$TRIPLOCK\" run machine";
    let state = user.sandbox.path("machines-state");
    let output = Command::new(unshare[0])
        .args(&unshare[1..])
        .args(["sh", "-c", script])
        .env("XDG_CONFIG_HOME", &user.home)
        .env("STATE", &state)
        .env("TRIPLOCK", TRIPLOCK)
        .env_remove("TRIPLOCK_STATE_DIR")
        .env_remove("TRIPLOCK_CONFIG")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(state.join("jobs/machine.jsonl").exists());
}

#[test]
fn config_toml_says_where_state_is() {
    let user = User::new();
    let state = user.sandbox.path("configured");
    let user = user.with("config.toml", &format!("state_dir = '{}'\n", state.display()));
    let output = user.bare(&["trip", "add", "1", "--seats", "1"]);
    assert!(output.status.success(), "{output:?}");
    assert!(state.join("trips/1.jsonl").exists());
    // The command line is nearer.
    user.triplock(&["trip", "add", "2", "--seats", "1"]).succeeds();
    assert!(user.sandbox.trips("2.jsonl").exists());
}

#[test]
fn a_wrong_config_toml_ends_every_command_that_needs_it() {
    for (text, file_mode, expected) in [
        ("statedir = '/s'\n", 0o644, "config.toml: line 1: unknown key \"statedir\"; did you mean state_dir?"),
        ("\nstate_dir = 's'\n", 0o644, "config.toml: line 2: state_dir is a relative path; give an absolute one"),
        ("state_dir = '/s'\n", 0o666, "config.toml: is writable by everybody"),
        ("state_dir = '/s'\n", 0o664, "config.toml: is writable by its group"),
    ] {
        let user = User::new().with("config.toml", text);
        mode(&user.path("config.toml"), file_mode);
        for (args, code) in [(&["trip", "list"][..], 78), (&["run", "J", "true"], 125), (&["doctor"], 78)] {
            let output = user.bare(args);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said).unwrap();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
            assert_eq!(said.matches(expected).count(), 1, "{args:?}: {said}");
        }
        assert!(!user.sandbox.path("xdg-state").exists(), "something was made in another place");
    }
}

#[test]
fn doctor_says_everything_that_is_wrong_with_its_line() {
    let user = User::new()
        .with("jobs.d/1.toml", "[jobs.a]\ncommand = ['true']\n\n[jobs.b]\ncomand = 'x'\ntime_limit = 0\n")
        .with("jobs.d/2.toml", "[jobs.a]\ncommand = 'y'\n[jobs.'c d']\ncommand = 'z'\n")
        .with("jobs.d/3.toml", "[jobs.e\n")
        .with("jobs.d/4.toml", "[jobs.f]\ncommand = 'x'\n")
        .with("config.toml", "state_dirs = '/s'\n");
    mode(&user.path("jobs.d/4.toml"), 0o646);
    let finished = user.triplock(&["doctor"]).run();
    let lines = lines(finished.exits(78));
    let said: Vec<_> = lines
        .iter()
        .filter(|line| line["problem"].is_string())
        .map(|line| {
            assert_eq!(line["problem"], "bad_configuration");
            let name = Path::new(line["path"].as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_owned();
            (name, line["line"].as_u64().unwrap_or(0))
        })
        .collect();
    let expected =
        [("config.toml", 1), ("1.toml", 5), ("1.toml", 6), ("2.toml", 1), ("2.toml", 3), ("3.toml", 1), ("4.toml", 0)];
    assert_eq!(said, expected.map(|(name, line)| (name.to_owned(), line)), "{finished:?}");
    assert_eq!(lines.last().unwrap()["problems"], 7);
    assert!(!user.sandbox.state_dir().exists(), "doctor made something");
}

#[test]
fn doctor_finds_nothing_wrong_where_nothing_is() {
    let user = User::new().with("jobs.d/a.toml", "[jobs.a]\ncommand = ['true']\n");
    let fresh = user.triplock(&["doctor"]).run();
    let lines_of = lines(fresh.exits(0));
    assert!(lines_of[0]["note"].as_str().unwrap().contains("not there yet"), "{fresh:?}");
    user.triplock(&["trip", "add", "1", "--seats", "2"]).succeeds();
    user.triplock(&["run", "a"]).run().exits(0);
    let finished = user.triplock(&["doctor"]).run();
    let [summary] = &lines(finished.exits(0))[..] else { panic!("{finished:?}") };
    let looked_at = &summary["looked_at"];
    assert_eq!(summary["problems"], 0);
    for (what, count) in [("job_files", 1), ("defined_jobs", 1), ("ledgers", 1), ("trips", 1)] {
        assert_eq!(looked_at[what], count, "{what}");
    }
}

#[test]
fn doctor_reads_every_line_of_every_ledger() {
    let spoil = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        fs::write(
            &path,
            format!(
                "{}\n{rest}",
                first.replacen("\"host\":\"", "\"host\":\"x", 1).replacen("\"seats\":", "\"seats\":1", 1)
            ),
        )
        .unwrap();
    };
    let user = User::new();
    user.triplock(&["trip", "add", "1", "--seats", "2"]).succeeds();
    user.triplock(&["book", "1", "--student", "7"]).succeeds();
    user.triplock(&["run", "J", "true"]).run().exits(0);
    user.triplock(&["doctor"]).run().exits(0);
    for path in ["jobs/J.jsonl", "trips/1.jsonl"] {
        let path = user.sandbox.state_dir().join(path);
        let before = fs::read(&path).unwrap();
        spoil(path.clone());
        let finished = user.triplock(&["doctor"]).run();
        let found = &lines(finished.exits(65))[0];
        assert_eq!(
            (&found["problem"], &found["path"]),
            (&"corrupt".into(), &path.to_str().unwrap().into()),
            "{finished:?}"
        );
        fs::write(&path, before).unwrap();
        user.triplock(&["doctor"]).run().exits(0);
    }
}
