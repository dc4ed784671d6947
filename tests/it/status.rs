//! `status`: what runs, derived from the locks alone.

use std::{
    fs::{self, File},
    io::Read as _,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use triplock::job::{Outcome, Request};

use crate::{
    ledger_script::{Script, lines},
    machine::may_trace,
    sandbox::{Sandbox, eventually, exclusive},
    strace,
};

fn status(sandbox: &Sandbox, args: &[&str]) -> Vec<Value> {
    let finished = sandbox.triplock(["status"].iter().chain(args)).run();
    finished.exits(0);
    lines(&finished.stdout)
}

/// The status of one job or trip.
fn of(sandbox: &Sandbox, name: &str) -> Value {
    let mut found = status(sandbox, &[name]);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn text(sandbox: &Sandbox, args: &[&str]) -> String {
    let finished = sandbox.triplock(["status"].iter().chain(args)).in_text().run();
    finished.exits(0);
    finished.stdout
}

fn jobs(sandbox: &Sandbox, file: &str) -> PathBuf {
    sandbox.state_dir().join("jobs").join(file)
}

/// A `sh` that keeps a lock's descriptor as its standard input; killed when dropped.
struct Keeper(Child);

impl Keeper {
    fn new(lock: File, script: &str) -> Self {
        let child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::from(lock))
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn();
        Self(child.expect("start sh"))
    }

    fn pid(&self) -> u64 {
        self.0.id().into()
    }

    /// A process id that it prints.
    fn printed(&mut self) -> u64 {
        let mut said = Vec::new();
        let out = self.0.stdout.as_mut().expect("it is piped");
        let mut byte = [0];
        while out.read(&mut byte).expect("read a pipe") == 1 && byte[0] != b'\n' {
            said.push(byte[0]);
        }
        String::from_utf8(said).expect("text").parse().expect("a process id")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // With all that it started. Nobody has waited for it, so the number is its own.
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process_group(rustix::process::Pid::from_child(&self.0), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

fn lock(path: &Path) -> File {
    exclusive(path)
}

#[test]
fn an_idle_job_shows_its_last_outcome_and_its_counters() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "nightly")
        .start(1)
        .later(5)
        .end(1, Outcome::Succeeded, Some(0))
        .start(1)
        .later(5)
        .end(2, Outcome::Failed, Some(3))
        .skip()
        .skip()
        .finish();
    let job = of(&sandbox, "nightly");
    assert_eq!((&job["kind"], &job["job"], &job["state"]), (&json!("job"), &json!("nightly"), &json!("idle")));
    assert_eq!(job["counts"], json!({"succeeded": 1, "failed": 1, "skipped": 2}));
    assert_eq!((&job["last"]["outcome"], &job["last"]["exit"]), (&json!("failed"), &json!(3)));
    assert_eq!((&job["last_not_run"]["outcome"], &job["last_run"]), (&json!("skipped"), &json!(4)));
    assert!(job["last_success"].is_string() && job["holders"] == json!([]), "{job}");
    let shown = text(&sandbox, &[]);
    assert!(shown.starts_with("JOB ") && shown.contains("idle") && shown.contains("failed"), "{shown}");
}

#[test]
fn a_run_is_running_while_its_wrapper_keeps_the_lock() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "nightly").start(1).start(2).ask_for_end(2, Request::Stop).finish();
    // This process plays both wrappers.
    let first = lock(&jobs(&sandbox, "nightly.lock"));
    let second = lock(&jobs(&sandbox, "nightly.slot2"));
    let job = of(&sandbox, "nightly");
    assert_eq!(job["state"], "running");
    for (at, slot) in [1, 2].into_iter().enumerate() {
        let holder = &job["holders"][at];
        assert_eq!(
            (&holder["state"], &holder["slot"], &holder["run"]),
            (&json!("running"), &json!(slot), &json!(slot))
        );
        assert_eq!(holder["pid"], std::process::id());
        assert!(holder["since"].is_string() && !holder["command"].as_str().unwrap().is_empty(), "{holder}");
    }
    assert_eq!(job["holders"][1]["end_requested"], "stop");
    let shown = text(&sandbox, &["nightly"]);
    assert!(shown.contains("running") && shown.contains("stopping"), "{shown}");
    let seen = lines(&sandbox.triplock(["history", "nightly"]).run().exits(0).stdout);
    assert!(seen.iter().all(|run| run["state"] == "running" && run["outcome"].is_null()), "{seen:?}");
    drop((first, second));
    let job = of(&sandbox, "nightly");
    assert_eq!((&job["state"], &job["lost"]), (&json!("idle"), &json!([1, 2])));
}

#[test]
fn a_look_takes_no_lock() {
    if !may_trace("a_look_takes_no_lock") {
        return;
    }
    let sandbox = Sandbox::new().trip("1", 1);
    Script::new(&sandbox, "nightly").start(1).finish();
    let held =
        [lock(&jobs(&sandbox, "nightly.lock")), lock(&jobs(&sandbox, "nightly.commit")), sandbox.hold_lock("1.lock")];
    let trace = sandbox.path("trace");
    for args in [&["status"][..], &["status", "nightly", "--why"], &["status", "1", "--why"], &["history"]] {
        sandbox.triplock(args).under(strace::tracing(&trace, &["-e", "trace=flock,openat"])).run().exits(0);
        let calls = strace::calls(&trace);
        assert!(calls.iter().any(|call| call.is("openat", "/proc/locks")), "{args:?}: {calls:?}");
        assert!(!calls.iter().any(|call| call.name == "flock"), "{args:?}: {calls:?}");
    }
    drop(held);
}

#[test]
fn an_orphaned_job_and_a_leftover_have_names() {
    let sandbox = Sandbox::new();
    let mut script = Script::new(&sandbox, "nightly");
    // The number of a process that is not the wrapper: it does not keep the lock.
    script.pid = 1;
    script.start(1).finish();
    let orphan = Keeper::new(lock(&jobs(&sandbox, "nightly.lock")), "sleep 1000 & wait");
    let job = of(&sandbox, "nightly");
    assert_eq!((&job["state"], &job["holders"][0]["run"]), (&json!("orphaned"), &json!(1)));
    assert_eq!(job["holders"][0]["pid"], orphan.pid());
    assert!(job["holders"][0]["command"].as_str().unwrap().contains("sleep 1000"), "{job}");
    // The ledger says that it is over.
    Script::new(&sandbox, "nightly").start(1).end(1, Outcome::Succeeded, Some(0)).finish();
    let job = of(&sandbox, "nightly");
    assert_eq!((&job["state"], &job["holders"][0]["pid"]), (&json!("held"), &json!(orphan.pid())));
    assert!(text(&sandbox, &[]).contains("no run is recorded"), "the process is younger than the run's end");
    Script::new(&sandbox, "nightly").start(1).later(7200).end(1, Outcome::Succeeded, Some(0)).finish();
    let shown = text(&sandbox, &[]);
    assert!(
        shown.contains("held by a leftover")
            && shown.contains("sleep 1000")
            && shown.contains(&orphan.pid().to_string()),
        "{shown}"
    );
}

#[test]
fn what_cannot_be_told_is_unknown_and_what_is_of_another_boot_is_lost() {
    let sandbox = Sandbox::new();
    let mut script = Script::new(&sandbox, "elsewhere");
    script.pid_namespace += 1;
    script.start(1).finish();
    let mut script = Script::new(&sandbox, "earlier");
    script.boot = "another".to_owned();
    script.start(1).finish();
    let _held = lock(&jobs(&sandbox, "elsewhere.lock"));
    drop(lock(&jobs(&sandbox, "earlier.lock")));
    let (elsewhere, earlier) = (of(&sandbox, "elsewhere"), of(&sandbox, "earlier"));
    assert_eq!((&elsewhere["state"], &elsewhere["holders"][0]["state"]), (&json!("unknown"), &json!("unknown")));
    assert_eq!((&earlier["state"], &earlier["lost"]), (&json!("idle"), &json!([1])));
    let seen = lines(&sandbox.triplock(["history", "elsewhere"]).run().exits(0).stdout);
    assert_eq!((&seen[0]["state"], &seen[0]["outcome"]), (&json!("unknown"), &Value::Null));
    assert_eq!(status(&sandbox, &["elsewhere", "--why"])[0]["state"], "unknown");
}

#[test]
fn trips_are_shown_with_whoever_has_them_locked() {
    let sandbox = Sandbox::new().trip("1", 3);
    let idle = of(&sandbox, "1");
    assert_eq!((&idle["kind"], &idle["trip"], &idle["state"]), (&json!("trip"), &json!("1"), &json!("idle")));
    assert_eq!((&idle["seats"], &idle["seats_left"]), (&json!(3), &json!(3)));
    let _held = sandbox.hold_lock("1.lock");
    let locked = of(&sandbox, "1");
    assert_eq!((&locked["state"], &locked["pid"]), (&json!("locked"), &json!(std::process::id())));
    assert!(text(&sandbox, &[]).contains("locked"));
}

#[test]
fn why_goes_from_the_wrapper_to_the_process_that_keeps_the_lock() {
    let sandbox = Sandbox::new();
    let mut script = Script::new(&sandbox, "nightly");
    let path = jobs(&sandbox, "nightly.lock");
    // The shell is the wrapper; its child has no lock, and that one's child does.
    let middle = "exec 7<&0; sh -c 'exec <&-; sleep 1000 8<&7 7<&- & exec 7<&-; echo $!; wait' & wait";
    let mut wrapper = Keeper::new(lock(&path), middle);
    let sleep = wrapper.printed();
    script.pid = wrapper.0.id();
    script.start(1).finish();
    let why = || status(&sandbox, &["nightly", "--why"]).remove(0);
    // The shell may not have become `sleep` yet.
    eventually("sleep is there", || fs::read(format!("/proc/{sleep}/cmdline")).unwrap().starts_with(b"sleep"));
    let found = why();
    assert_eq!((&found["kind"], &found["state"], &found["run"]), (&json!("job"), &json!("held"), &json!(1)));
    assert_eq!(found["lock"], path.to_str().unwrap());
    let processes = found["processes"].as_array().unwrap();
    let role_of = |pid: u64| processes.iter().find(|process| process["pid"] == pid).map(|process| &process["role"]);
    assert_eq!((&processes[0]["pid"], &processes[0]["role"]), (&json!(wrapper.pid()), &json!("wrapper")), "{found}");
    assert_eq!(role_of(sleep), Some(&json!("descendant")), "{found}");
    let kept = processes.iter().find(|process| process["pid"] == sleep).unwrap();
    assert_eq!((&kept["keeps"], &kept["command"]), (&json!(true), &json!("sleep 1000")));
    assert!(
        kept["since"].is_string() && kept["descriptors"].as_array().is_some_and(|fds| fds.contains(&json!(8))),
        "{kept}"
    );
    let shown = text(&sandbox, &["nightly", "--why"]);
    assert!(shown.starts_with("job nightly: held, run 1 since 20") && shown.contains("sleep 1000"), "{shown}");

    // The wrapper is killed: what it left behind has a name.
    wrapper.0.kill().unwrap();
    wrapper.0.wait().unwrap();
    let found = why();
    let names: Vec<_> = found["processes"].as_array().unwrap().iter().map(|process| &process["role"]).collect();
    assert!(!names.is_empty() && names.iter().all(|role| **role == "other"), "{found}");
    assert!(found["processes"].as_array().unwrap().iter().any(|process| process["pid"] == sleep), "{found}");
    // Its group is still there, and so is its number.
    let group = rustix::process::Pid::from_raw(i32::try_from(wrapper.pid()).unwrap()).unwrap();
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
    eventually("nobody keeps the lock", || why()["state"] == "free");
}

#[test]
fn why_also_explains_trips_and_named_locks() {
    let sandbox = Sandbox::new().trip("1", 1);
    let held = sandbox.hold_lock("1.lock");
    let trip = &status(&sandbox, &["1", "--why"])[0];
    assert_eq!((&trip["kind"], &trip["state"]), (&json!("trip"), &json!("held")));
    let own =
        trip["processes"].as_array().unwrap().iter().find(|process| process["pid"] == std::process::id()).unwrap();
    assert!(own["descriptors"].as_array().unwrap().contains(&json!(held.as_raw_fd())), "{trip}");
    let locks = sandbox.state_dir().join("locks");
    fs::create_dir(&locks).unwrap();
    drop(lock(&locks.join("disk.lock")));
    let named = &status(&sandbox, &["disk", "--why"])[0];
    assert_eq!((&named["kind"], &named["state"]), (&json!("lock"), &json!("free")));
    assert_eq!(text(&sandbox, &["disk", "--why"]), "lock disk: nobody holds the lock\n");
}

#[test]
fn an_unknown_name_is_said_so() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.triplock(["status", "nightly"]).fails(66)["error"], "no_such_job");
    assert_eq!(status(&sandbox, &[]), Vec::<Value>::new());
    assert!(!sandbox.state_dir().exists(), "a look makes nothing");
    let sandbox = sandbox.trip("1", 1);
    assert_eq!(sandbox.triplock(["status", "2", "--why"]).fails(66)["error"], "no_such_job");
    sandbox.triplock(["status", "--why"]).fails(64);
}

/// The real thing: a wrapper that is killed leaves the job, the job keeps the lock, and both have names.
#[test]
fn a_killed_wrapper_leaves_a_job_with_a_name() {
    let sandbox = Sandbox::new();
    let door = sandbox.path("door");
    let closed = exclusive(&door);
    let wrapper = sandbox.triplock(["run", "job", "--", "flock"]).arg(&door).arg("true").in_text().start();
    let shown = || lines(&sandbox.triplock(["status"]).run().exits(0).stdout);
    eventually("it runs", || shown().first().is_some_and(|job| job["state"] == "running"));
    let holder = shown()[0]["holders"][0].clone();
    assert!(holder["command"].as_str().unwrap().contains(" run job -- flock"), "{holder}");
    let why = || status(&sandbox, &["job", "--why"]).remove(0);
    // Once the command has become `flock`.
    eventually("both have names", || {
        let found = why();
        let processes = found["processes"].as_array().unwrap();
        processes.len() == 2
            && processes[0]["pid"] == holder["pid"]
            && processes[1]["role"] == "command"
            && processes[1]["command"].as_str().is_some_and(|command| command.starts_with("flock "))
            && processes.iter().all(|process| process["keeps"] == true)
    });
    wrapper.kill();
    eventually("the wrapper is gone", || shown()[0]["state"] == "orphaned");
    assert!(shown()[0]["holders"][0]["command"].as_str().unwrap().starts_with("flock "), "{:?}", shown());
    drop(closed);
    eventually("the job is gone", || shown()[0]["state"] == "idle");
    assert_eq!(wrapper.finish().code(), None);
    assert_eq!(shown()[0]["lost"], json!([1]));
    sandbox.triplock(["run", "job", "--", "true"]).in_text().run().exits(0);
    let job = &shown()[0];
    assert_eq!((&job["counts"], &job["lost"]), (&json!({"succeeded": 1, "lost": 1}), &Value::Null));
}
