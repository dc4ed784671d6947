//! `flock --job NAME`: what stands in the ledger afterwards.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::sandbox::{Sandbox, TRIPLOCK, eventually, waiters};

#[test]
fn a_run_is_recorded_with_its_file_and_its_end() {
    let place = Place::new();
    assert_eq!(place.job(["sh", "-c", "exit 3"]).status.code(), Some(3));
    assert_eq!(place.job(["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(place.job(["true"]).status.code(), Some(0));
    let ledger = place.ledger();
    let file = fs::metadata(place.file()).unwrap();
    let (started, ended) = (&ledger[0], &ledger[1]);
    assert_eq!(started["event"], "started");
    assert_eq!(started["file"], json!([file.dev(), file.ino()]));
    assert_eq!(started["command"], "sh -c exit 3");
    assert_eq!((&started["run"], &started["fence"], &started["slot"]), (&json!(1), &json!(1), &json!(65)));
    let facts = |entry: &Value| {
        ["event", "run", "outcome", "exit", "signal"].map(|key| entry.get(key).cloned().unwrap_or_default())
    };
    assert_eq!(facts(ended), [json!("ended"), json!(1), json!("failed"), json!(3), Value::Null]);
    assert_eq!(facts(&ledger[3]), [json!("ended"), json!(2), json!("failed"), Value::Null, json!(9)]);
    assert_eq!(facts(&ledger[5]), [json!("ended"), json!(3), json!("succeeded"), json!(0), Value::Null]);
    assert!(ended["peak_memory"].as_u64().unwrap() > 100_000, "{ended}");
    assert!(ledger[5]["totals"].get("running").is_none(), "nothing runs any more: {}", ledger[5]);
}

#[test]
fn a_command_that_cannot_be_executed_is_recorded_so() {
    let place = Place::new();
    let output = place.job(["nosuch"]);
    assert_eq!(output.status.code(), Some(69));
    assert_eq!(text(&output.stderr), "triplock flock: failed to execute nosuch: No such file or directory\n");
    let ledger = place.ledger();
    assert_eq!((ledger.len(), &ledger[1]["outcome"]), (2, &json!("not_started")));
}

/// Who holds the lock is the run that the ledger knows.
#[test]
fn a_conflict_is_recorded_with_the_run_that_holds_the_lock() {
    let place = Place::new();
    let mut holder = place.start(["sh", "-c", "echo; read line", "nightly"]);
    let output = place.call(["-n", "-E", "9", "--job", "J"], ["true"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(9), String::new()));
    let skipped = place.ledger().pop().unwrap();
    assert_eq!(
        (&skipped["event"], &skipped["outcome"], &skipped["run"]),
        (&json!("not_run"), &json!("skipped"), &json!(2))
    );
    assert_eq!(skipped["holder"]["pid"], holder.0.id());
    assert_eq!(skipped["holder"]["command"], "sh -c echo; read line nightly");
    assert_eq!(skipped["holder"]["since"], place.ledger()[0]["time"]);
    drop(holder.0.stdin.take());
    assert_eq!(holder.0.wait().unwrap().code(), Some(1), "read found the end");
}

/// A file that triplock locks itself says who took it last.
#[test]
fn a_conflict_over_one_of_triplocks_own_locks_names_its_holder() {
    let place = Place::new();
    place.sandbox.add("1", 1).succeeds();
    let _held = place.sandbox.hold_lock("1.lock");
    let note: Value = serde_json::from_slice(&fs::read(place.sandbox.trips("1.lock")).unwrap()).unwrap();
    let mut command = place.command();
    let output = command.args(["-n", "--job=J"]).arg(place.sandbox.trips("1.lock")).arg("true").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let skipped = place.ledger().pop().unwrap();
    for key in ["pid", "host", "since", "command", "fence"] {
        assert_eq!(skipped["holder"][key], note[key], "{skipped}");
    }
}

#[test]
fn runs_that_share_the_lock_overlap_in_slots_of_their_own() {
    let place = Place::new();
    let mut runs: Vec<_> =
        (0..3).map(|_| place.start_with(["-s", "--job", "J"], ["sh", "-c", "echo; read line"])).collect();
    let slots = |ledger: &[Value]| {
        let running = ledger.last().unwrap()["totals"]["running"].as_array().cloned().unwrap_or_default();
        running.iter().map(|run| run["slot"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(slots(&place.ledger()), [65, 66, 67]);
    let mut ended = runs.remove(1);
    drop(ended.0.stdin.take());
    ended.0.wait().unwrap();
    assert_eq!(slots(&place.ledger()), [65, 67]);
    runs.push(place.start_with(["-s", "--job", "J"], ["sh", "-c", "echo; read line"]));
    assert_eq!(slots(&place.ledger()), [65, 66, 67]);
}

/// Killed, it leaves a start without an end. The next one to have the file for itself says so; one that shares it cannot
/// know.
#[test]
fn a_run_whose_wrapper_was_killed_is_lost() {
    let place = Place::new();
    let mut killed = place.start(["sh", "-c", "echo; read line"]);
    rustix::process::kill_process(Pid::from_child(&killed.0), Signal::KILL).unwrap();
    let stdin = killed.0.stdin.take();
    killed.0.wait().unwrap();
    assert_eq!(place.call(["-n", "--job", "J"], ["true"]).status.code(), Some(1), "its command has the lock");
    let skipped = place.ledger().pop().unwrap();
    assert_eq!(skipped["holder"]["command"], "sh -c echo; read line", "its wrapper is gone, the run is not over");
    drop(stdin);
    eventually("the command ends", || place.call(["-n"], ["true"]).status.success());
    assert!(place.call(["-s", "--job", "J"], ["true"]).status.success());
    assert!(place.ledger().iter().all(|entry| entry["outcome"] != "lost"));
    assert!(place.call(["--job", "J"], ["true"]).status.success());
    let ledger = place.ledger();
    let [lost, started, ended] = ledger.last_chunk().unwrap();
    assert_eq!((&lost["outcome"], &lost["run"]), (&json!("lost"), &json!(1)));
    assert_eq!((&started["slot"], &ended["outcome"]), (&json!(65), &json!("succeeded")));
    assert_eq!(ended["totals"]["counts"], json!({ "succeeded": 2, "lost": 1, "skipped": 1 }));
}

#[test]
fn the_wait_is_recorded() {
    let place = Place::new();
    let holder = place.start(["sh", "-c", "echo; read line"]);
    let file = File::open(place.file()).unwrap();
    let waiting = place.spawn(["--job", "J"], ["true"]);
    eventually("it waits", || waiters(&file) == 1);
    std::thread::sleep(std::time::Duration::from_millis(50));
    drop(holder);
    assert!(waiting.wait_with_output().unwrap().status.success());
    assert!(place.ledger().pop().unwrap()["wait"].as_f64().unwrap() >= 0.05);
}

/// Nothing is locked and nothing run when it cannot be recorded as asked.
#[test]
fn what_cannot_be_recorded_is_refused() {
    let place = Place::new();
    for (options, code, says) in [
        (&["-F", "--job", "J"][..], 64, "the --no-fork and --job options are incompatible"),
        (&["--job", "a/b"], 64, "--job: "),
        (&["--job="], 64, "--job: "),
        (&["--state-dir", "F", "--job", "J"], 73, "a file is in the way"),
    ] {
        let output = place.call(options, ["touch", "ran"]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {stderr}");
        assert!(stderr.starts_with("triplock flock: ") && stderr.contains(says), "{options:?}: {stderr}");
    }
    let output = place.command().args(["--job", "J", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("--job records the run of a command"));
    assert!(!place.sandbox.path("ran").exists());
}

/// Without `--job` no state is made, and the environment's is not looked at.
#[test]
fn without_a_job_nothing_is_kept() {
    let place = Place::new();
    assert!(place.call([], ["true"]).status.success());
    assert!(!place.sandbox.state_dir().exists());
}

struct Place {
    sandbox: Sandbox,
}

impl Place {
    fn new() -> Self {
        Self { sandbox: Sandbox::new() }
    }

    fn file(&self) -> PathBuf {
        self.sandbox.path("F")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(TRIPLOCK);
        command.arg("flock").current_dir(self.sandbox.path("")).stdin(Stdio::null());
        command.env("TRIPLOCK_STATE_DIR", self.sandbox.state_dir());
        command
    }

    fn call<const N: usize>(&self, options: impl AsRef<[&'static str]>, words: [&str; N]) -> Output {
        let mut command = self.command();
        for option in options.as_ref() {
            command.arg(option);
        }
        command.arg("F").args(words).output().unwrap()
    }

    fn job<const N: usize>(&self, words: [&str; N]) -> Output {
        self.call(["--job", "J"], words)
    }

    fn spawn<const O: usize, const N: usize>(&self, options: [&str; O], words: [&str; N]) -> Child {
        let mut command = self.command();
        command.args(options).arg("F").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Starts a command that says a line when it runs, and reads one to end.
    fn start_with<const O: usize, const N: usize>(&self, options: [&str; O], words: [&str; N]) -> Running {
        let mut running = Running(self.spawn(options, words));
        let mut line = [0];
        std::io::Read::read_exact(running.0.stdout.as_mut().unwrap(), &mut line).unwrap();
        running
    }

    fn start<const N: usize>(&self, words: [&str; N]) -> Running {
        self.start_with(["--job", "J"], words)
    }

    fn ledger(&self) -> Vec<Value> {
        let path: &Path = &self.sandbox.state_dir().join("jobs/J.jsonl");
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Its command ends when this is dropped: nobody writes to it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
