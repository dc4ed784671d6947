//! What `run` does when the job runs already: skip and wait; and when it is not due, or comes at a random time.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use chrono::{DateTime, Utc};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    job_ledger::{self, JobLedger},
    latch::{Latch, run, shell},
    machine,
    sandbox::{Sandbox, TRIPLOCK, eventually, waiters},
    strace,
};

fn time(of: &Value) -> DateTime<Utc> {
    of.as_str().expect("a time").parse().expect("a time")
}

fn lock_file(sandbox: &Sandbox, file: &str) -> fs::File {
    fs::File::open(sandbox.state_dir().join("jobs").join(file)).expect("open the lock file")
}

#[test]
fn a_run_that_is_skipped_names_who_held_the_lock() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run(&sandbox, "j", "", latch.command()).start();
    latch.keeps(1);
    let error = run(&sandbox, "j", "", ["true"]).fails(75);
    assert_eq!(error["error"], "skipped", "{error}");
    run(&sandbox, "j", "-n", ["true"]).fails(75);
    run(&sandbox, "j", "--policy skip", ["true"]).fails(75);
    run(&sandbox, "j", "-E 0", ["true"]).run().exits(0);
    run(&sandbox, "j", "-n -E 17", ["true"]).run().exits(17);
    let touched = sandbox.path("touched");
    run(&sandbox, "j", "", [std::ffi::OsString::from("touch"), touched.clone().into()]).fails(75);
    assert!(!touched.exists(), "it was run");
    latch.open();
    first.finish().exits(0);
    run(&sandbox, "j", "-n", ["true"]).run().exits(0);
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    let skips = ledger.events("not_run");
    assert_eq!(skips.len(), 6);
    let started = ledger.events("started")[0];
    for skip in skips {
        let holder = &skip["holder"];
        assert_eq!(skip["outcome"], "skipped", "{skip}");
        assert_eq!((&holder["pid"], &holder["fence"]), (&started["pid"], &started["fence"]), "{skip}");
        assert!(holder["command"].as_str().unwrap().contains("flock -sF"), "{skip}");
        let apart = time(&started["time"]) - time(&holder["since"]);
        assert!(apart.num_milliseconds().abs() < 2000, "since when: {skip}, {started}");
        assert_eq!(skip["reason"].as_str().unwrap().lines().count(), 1, "{skip}");
    }
}

/// What cron mails is what is printed.
#[test]
fn a_hundred_skips_under_cron_print_nothing_and_are_all_recorded() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run(&sandbox, "j", "", latch.command()).start();
    latch.keeps(1);
    let mut printed = 0;
    for turn in 0..100 {
        let mut cron = Command::new("setsid");
        cron.args(["-w", "/bin/sh", "-c", "exec \"$0\" --state-dir \"$1\" run j -n -- echo ran", TRIPLOCK]);
        cron.arg(sandbox.state_dir()).env_clear().stdin(Stdio::null()).current_dir("/");
        cron.envs([("PATH", "/usr/bin:/bin"), ("HOME", "/"), ("SHELL", "/bin/sh"), ("LOGNAME", "root")]);
        let output = cron.output().expect("start setsid");
        printed += output.stdout.len() + output.stderr.len();
        assert_eq!(output.status.code(), Some(75), "turn {turn}: {output:?}");
    }
    assert_eq!(printed, 0, "bytes for cron to mail");
    latch.open();
    first.finish().exits(0);
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    assert_eq!(ledger.count("skipped"), 100);
}

#[test]
fn a_timed_wait_for_a_job_ends_in_time() {
    let sandbox = Sandbox::alone();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run(&sandbox, "j", "", latch.command()).start();
    latch.keeps(1);
    for options in ["-w 0.3", "--policy wait -w 0.3", "-w 0.3 --slots 1"] {
        let finished = run(&sandbox, "j", options, ["true"]).run();
        let allowed = Duration::from_millis(300)..Duration::from_millis(600);
        if !allowed.contains(&finished.exits(75).took) {
            finished.complain("expected 0.3 to 0.6 s");
        }
    }
    latch.open();
    first.finish().exits(0);
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    for skip in ledger.events("not_run") {
        assert!(skip["wait"].as_f64().unwrap() >= 0.3, "{skip}");
        assert_eq!(skip["holder"]["pid"], ledger.events("started")[0]["pid"], "{skip}");
    }
}

#[test]
fn a_waiter_runs_when_the_holder_ends() {
    let sandbox = Sandbox::new();
    for options in ["-w 60", "--policy wait"] {
        let latch = Latch::closed(&sandbox, "latch");
        let first = run(&sandbox, "j", "", latch.command()).start();
        latch.keeps(1);
        let waiter = run(&sandbox, "j", options, ["true"]).start();
        let lock = lock_file(&sandbox, "j.lock");
        eventually("it waits", || waiters(&lock) == 1);
        latch.open();
        first.finish().exits(0);
        waiter.finish().exits(0);
    }
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    assert_eq!(ledger.outcomes(), ["succeeded"; 4]);
    for pair in ledger.events("started").chunks(2) {
        assert!(pair[1]["wait"].as_f64() > pair[0]["wait"].as_f64(), "{pair:?}");
    }
}

#[test]
fn waiting_for_a_job_is_one_blocking_flock() {
    if !machine::may_trace("one blocking flock for a job") {
        return;
    }
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run(&sandbox, "j", "", latch.command()).start();
    latch.keeps(1);
    let trace = sandbox.path("trace");
    run(&sandbox, "j", "-w 0.3", ["true"]).under(strace::tracing(&trace, &[])).run().exits(75);
    latch.open();
    first.finish().exits(0);
    let calls = strace::calls(&trace);
    let asks = calls.iter().filter(|call| call.is("flock", "/jobs/j.lock>") && call.is("flock", "LOCK_EX"));
    let (tries, waits): (Vec<_>, Vec<_>) = asks.partition(|call| call.text.contains("LOCK_NB"));
    assert_eq!(waits.len(), 1, "{waits:#?}");
    assert!(tries.len() <= 3, "{tries:#?}");
    let sleeps: Vec<_> = calls
        .iter()
        .filter(|call| call.name.contains("sleep") || (call.name.contains("poll") && call.text.contains("POLLIN")))
        .collect();
    assert!(sleeps.is_empty(), "{sleeps:#?}");
}

#[test]
fn a_waiter_that_is_asked_to_end_says_so_in_the_ledger() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let sandbox = Sandbox::new();
        let latch = Latch::closed(&sandbox, "latch");
        let first = run(&sandbox, "j", "", latch.command()).start();
        latch.keeps(1);
        let waiter = run(&sandbox, "j", "--policy wait", ["true"]).start();
        let lock = lock_file(&sandbox, "j.lock");
        eventually("it waits", || waiters(&lock) == 1);
        waiter.signal(signal);
        waiter.finish().exits(code);
        latch.open();
        first.finish().exits(0);
        let ledger = JobLedger::read(&sandbox, "j");
        ledger.judge();
        assert_eq!(ledger.outcomes(), ["interrupted", "succeeded"]);
    }
}

/// Both ask the kernel for the same lock of the same file.
#[test]
fn flock_1_on_the_lock_file_and_run_keep_each_other_out() {
    let sandbox = Sandbox::new();
    run(&sandbox, "j", "", ["true"]).run().exits(0);
    let lock = sandbox.state_dir().join("jobs/j.lock");
    let foreign = |command: &[std::ffi::OsString]| {
        let mut flock = Command::new("flock");
        flock.arg("-n").arg(&lock).args(command).stdin(Stdio::null());
        flock
    };
    let latch = Latch::closed(&sandbox, "latch");
    let mut holder = foreign(&latch.command()).spawn().expect("start flock");
    latch.keeps(1);
    run(&sandbox, "j", "-n", ["true"]).fails(75);
    let waiter = run(&sandbox, "j", "-w 60", ["true"]).start();
    let file = lock_file(&sandbox, "j.lock");
    eventually("it waits", || waiters(&file) == 1);
    latch.open();
    assert!(holder.wait().unwrap().success());
    waiter.finish().exits(0);

    let latch = Latch::closed(&sandbox, "latch");
    let first = run(&sandbox, "j", "-n", latch.command()).start();
    latch.keeps(1);
    assert_eq!(foreign(&["true".into()]).status().unwrap().code(), Some(1), "flock(1) got a lock that is held");
    latch.open();
    first.finish().exits(0);
    assert_eq!(foreign(&["true".into()]).status().unwrap().code(), Some(0), "flock(1) did not get a free lock");
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    // The note in the file is the first run's, which is over: blaming it would be wrong.
    let skip = ledger.events("not_run")[0];
    assert_eq!(skip.get("holder"), None, "it blames a run that was over: {skip}");
    let reason = skip["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("pid {}: flock -n ", holder.id())), "{reason}");
}

#[test]
fn once_per_counts_from_the_start_of_the_last_success() {
    let sandbox = Sandbox::alone();
    let ran = sandbox.path("ran");
    let count = || fs::read_to_string(&ran).map_or(0, |text| text.lines().count());
    let note = format!("echo >>'{}';", ran.display());
    let ask = |rest: &str| run(&sandbox, "j", "--once-per 1.5", shell(&format!("{note} {rest}"))).run();
    ask("exit 3").exits(3);
    ask("kill -9 $$").exits(137);
    // A failure did not count; a success does.
    ask("sleep 1").exits(0);
    assert_eq!(count(), 3);
    ask("").exits(0);
    assert_eq!(count(), 3, "it was not due");
    eventually("it is due", || {
        ask("").exits(0);
        count() > 3
    });
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    assert!(ledger.count("not_due") >= 1);
    let started = ledger.events("started");
    assert_eq!(started.len(), 4);
    let apart = (time(&started[3]["time"]) - time(&started[2]["time"])).as_seconds_f64();
    // From its end it would be 2.5.
    assert!((1.49..2.4).contains(&apart), "due after {apart} s");
    for not_due in ledger.events("not_run") {
        assert!(not_due["reason"].as_str().unwrap().contains("success"), "{not_due}");
    }
}

#[test]
fn a_clock_that_was_set_back_does_not_keep_a_job_from_running_for_ever() {
    let sandbox = Sandbox::new();
    let ask = || run(&sandbox, "j", "--once-per 1h", ["true"]).run();
    ask().exits(0);
    let path = job_ledger::path(&sandbox, "j");
    let last_success = |ledger: &JobLedger| ledger.lines.last().unwrap()["totals"]["last_success"].as_i64().unwrap();
    let doctor = |hours: i64| {
        let before = last_success(&JobLedger::read(&sandbox, "j"));
        let text = fs::read_to_string(&path).unwrap();
        let (rest, line) = text.trim_end().rsplit_once('\n').unwrap();
        let shifted = before + hours * 3_600_000_000;
        let line = line.replace(&format!("\"last_success\":{before}"), &format!("\"last_success\":{shifted}"));
        fs::write(&path, format!("{rest}\n{}\n", job_ledger::sealed(&line))).unwrap();
        assert_eq!(last_success(&JobLedger::read(&sandbox, "j")), shifted);
    };
    // The instrument: half an hour ago is not due, two hours ago is.
    ask().exits(0);
    assert_eq!(JobLedger::read(&sandbox, "j").events("started").len(), 1);
    doctor(-2);
    ask().exits(0);
    assert_eq!(JobLedger::read(&sandbox, "j").events("started").len(), 2);
    // The last success is a year ahead: the clock was wrong then.
    doctor(24 * 365);
    ask().exits(0);
    assert_eq!(JobLedger::read(&sandbox, "j").events("started").len(), 3, "it waits for the clock to catch up");
    // And from now on it counts again.
    ask().exits(0);
    assert_eq!(JobLedger::read(&sandbox, "j").events("started").len(), 3, "it runs each time");
}

#[test]
fn jitter_is_bounded_and_random() {
    let sandbox = Sandbox::alone();
    let bound = Duration::from_millis(300);
    let took: Vec<_> = (0..10)
        .map(|_| {
            let finished = run(&sandbox, "j", "--jitter 0.3", ["true"]).run();
            finished.exits(0).took
        })
        .collect();
    assert!(took.iter().all(|took| *took < bound + Duration::from_millis(300)), "{took:?}");
    let spread = took.iter().max().unwrap().abs_diff(*took.iter().min().unwrap());
    assert!(spread > Duration::from_millis(20), "not random: {took:?}");
}

#[test]
fn jitter_ends_with_a_signal_and_holds_no_lock() {
    let sandbox = Sandbox::new();
    let pid = sandbox.path("pid");
    let under = ["sh".into(), "-c".into(), "echo $$ >\"$0\"; exec \"$@\"".into(), pid.clone().into_os_string()];
    let sleeper = run(&sandbox, "j", "--jitter 1d", ["true"]).under(under).start();
    eventually("it sleeps, and would be told of a signal", || {
        let pid = fs::read_to_string(&pid).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t"));
        let blocked = blocked.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or_default();
        status.contains("State:\tS") && blocked & (1 << (Signal::TERM.as_raw() - 1)) != 0
    });
    run(&sandbox, "j", "-n", ["true"]).run().exits(0);
    sleeper.signal(Signal::TERM);
    let finished = sleeper.finish();
    assert_eq!((finished.code(), finished.status.signal()), (Some(143), None), "{finished:?}");
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    assert_eq!(ledger.outcomes(), ["succeeded", "interrupted"]);
}
