//! `--policy replace` and `stop`: they end the run there is, only that one, and the ledger says who wanted it.

use std::{
    ffi::OsString,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    job_lines::{self, JobLedger},
    latch::{Latch, run, shell, signal},
    machine,
    sandbox::{Invocation, Running, Sandbox, eventually, waiters},
    strace,
};

/// `-k`: long enough for a TERM to be seen, far from the default of 10 s.
const GRACE: &str = "0.7";

fn stop(sandbox: &Sandbox, job: &str) -> Invocation {
    sandbox.triplock(["stop", job])
}

/// A process of the test's own, waiting for a latch.
struct Bystander(Child);

impl Bystander {
    fn start(latch: &Latch, program: &mut Command) -> Self {
        Self(program.args(latch.command()).stdin(Stdio::null()).spawn().expect("start a bystander"))
    }

    #[track_caller]
    fn lives(&mut self) {
        assert_eq!(self.0.try_wait().unwrap(), None, "a stranger was ended");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a run looks like in the ledger that somebody ended: wanted, over, and then whatever came next.
#[track_caller]
fn was_ended(ledger: &JobLedger, run: u64, request: &str, outcome: &str) {
    let wanted = ledger.position("end_requested", run).expect("nobody said that it was to end");
    let ended = ledger.position("ended", run).expect("it has no end");
    assert!(wanted < ended, "its end was recorded before it was wanted: {ledger:#?}");
    assert_eq!(ledger.lines[wanted]["request"], request);
    assert_eq!(ledger.lines[ended]["outcome"], outcome, "{}", ledger.lines[ended]);
    if let Some(next) = ledger.position("started", run + 1) {
        assert!(ended < next, "the next one started before the end of the last: {ledger:#?}");
    }
}

fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

#[test]
fn a_replaced_run_gets_term_and_is_recorded_as_replaced() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run(&sandbox, "j", "", latch.command()).start();
    latch.keeps(1);
    run(&sandbox, "j", "--policy replace", ["true"]).run().exits(0);
    first.finish().exits(143);
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    was_ended(&ledger, 1, "replace", "replaced");
    assert_eq!(ledger.lines[2]["signal"], 15, "{}", ledger.lines[2]);
    assert_eq!(ledger.outcomes(), ["replaced", "succeeded"]);
}

#[test]
fn replacing_nothing_just_runs() {
    let sandbox = Sandbox::new();
    for _ in 0..2 {
        run(&sandbox, "j", "--policy replace", ["true"]).run().exits(0);
    }
    assert_eq!(JobLedger::read(&sandbox, "j").outcomes(), ["succeeded"; 2]);
}

/// The job looks into the ledger when TERM reaches it.
#[test]
fn the_ledger_says_who_wants_the_end_before_the_signal_is_sent() {
    for (request, outcome) in [("replace", "replaced"), ("stop", "stopped")] {
        let sandbox = Sandbox::new();
        let (ready, seen) = (sandbox.path("ready"), sandbox.path("seen"));
        let script = format!(
            "trap 'cp {} {}; exit 9' TERM; touch {}; while :; do sleep 0.01; done >/dev/null 2>&1",
            job_lines::path(&sandbox, "j").display(),
            seen.display(),
            ready.display()
        );
        let first = run(&sandbox, "j", "", shell(&script)).start();
        eventually("it runs", || ready.exists());
        if request == "replace" {
            run(&sandbox, "j", "--policy replace", ["true"]).run().exits(0);
        } else {
            stop(&sandbox, "j").run().exits(0);
        }
        first.finish().exits(9);
        let seen = fs::read_to_string(&seen).unwrap();
        assert!(seen.contains("\"event\":\"end_requested\""), "signalled before it was recorded: {seen}");
        assert!(!seen.contains("\"event\":\"ended\""), "{seen}");
        let ledger = JobLedger::read(&sandbox, "j");
        ledger.judge();
        // It handled TERM and chose its exit code; it was ended all the same.
        was_ended(&ledger, 1, request, outcome);
    }
}

#[test]
fn who_does_not_heed_term_is_killed_after_the_grace() {
    for by_stop in [false, true] {
        let sandbox = Sandbox::new();
        let latch = Latch::closed(&sandbox, "latch");
        let first = run(&sandbox, "j", "", latch.stubborn()).start();
        latch.keeps(1);
        let other = if by_stop {
            stop(&sandbox, "j").arg("-k").arg(GRACE)
        } else {
            run(&sandbox, "j", &format!("--policy replace -k {GRACE}"), ["true"])
        };
        let finished = other.run();
        finished.exits(0);
        assert!(finished.took >= Duration::from_millis(700), "it had no grace: {:?}", finished.took);
        assert!(finished.took < Duration::from_secs(8), "it had the wrong grace: {:?}", finished.took);
        first.finish().exits(137);
        let ledger = JobLedger::read(&sandbox, "j");
        ledger.judge();
        was_ended(&ledger, 1, if by_stop { "stop" } else { "replace" }, if by_stop { "stopped" } else { "replaced" });
        assert_eq!(ledger.lines[2]["signal"], 9, "{}", ledger.lines[2]);
    }
}

/// Starts a run whose wrapper is killed and whose job lives on. Gives the job's process.
fn orphan(sandbox: &Sandbox, latch: &Latch, command: Vec<OsString>) -> i32 {
    let first = run(sandbox, "j", "", command).start();
    latch.keeps(1);
    first.kill();
    assert_eq!(first.finish().status.signal(), Some(9));
    // The lock is the job's now.
    run(sandbox, "j", "-n", ["true"]).fails(75);
    latch.jobs()[0]
}

#[test]
fn an_orphaned_job_is_replaced() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let pid = orphan(&sandbox, &latch, latch.command());
    run(&sandbox, "j", "--policy replace", ["true"]).run().exits(0);
    assert!(!is_running(pid), "the job lives on beside its replacement");
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    assert_eq!(ledger.outcomes(), ["skipped", "replaced", "succeeded"]);
}

#[test]
fn a_stubborn_orphan_is_killed_after_the_grace() {
    for by_stop in [false, true] {
        let sandbox = Sandbox::new();
        let latch = Latch::closed(&sandbox, "latch");
        let pid = orphan(&sandbox, &latch, latch.stubborn());
        let finished = if by_stop {
            stop(&sandbox, "j").arg("-k").arg(GRACE).run()
        } else {
            run(&sandbox, "j", &format!("--policy replace -k {GRACE}"), ["true"]).run()
        };
        finished.exits(0);
        assert!(finished.took >= Duration::from_millis(700), "it had no grace: {:?}", finished.took);
        assert!(!is_running(pid), "the job lives on");
        let ledger = JobLedger::read(&sandbox, "j");
        ledger.judge();
        assert_eq!(ledger.outcomes()[1], if by_stop { "stopped" } else { "replaced" });
    }
}

#[test]
fn a_wrapper_that_was_stopped_by_a_signal_is_ended_too() {
    for by_stop in [false, true] {
        let sandbox = Sandbox::new();
        let latch = Latch::closed(&sandbox, "latch");
        let first = run(&sandbox, "j", "", latch.command()).start();
        latch.keeps(1);
        first.signal(Signal::STOP);
        let finished =
            if by_stop { stop(&sandbox, "j").run() } else { run(&sandbox, "j", "--policy replace", ["true"]).run() };
        assert!(finished.exits(0).took < Duration::from_secs(8), "it took KILL: {:?}", finished.took);
        first.finish().exits(143);
        let ledger = JobLedger::read(&sandbox, "j");
        ledger.judge();
        was_ended(&ledger, 1, if by_stop { "stop" } else { "replace" }, if by_stop { "stopped" } else { "replaced" });
    }
}

/// A note that names that process as the holder, as a recycled pid would.
fn plant_note(lock: &Path, pid: u32) {
    let text = fs::read_to_string(lock).unwrap();
    let mut note: serde_json::Value = serde_json::from_str(&text).unwrap();
    note["pid"] = pid.into();
    let mut text = note.to_string();
    text.extend(std::iter::repeat_n(' ', 511 - text.len()));
    fs::write(lock, text + "\n").unwrap();
}

/// The note names a living stranger, which has the lock file open besides; the lock is another process's.
#[test]
fn a_stranger_that_the_note_names_is_never_signalled() {
    for by_stop in [false, true] {
        let sandbox = Sandbox::new();
        run(&sandbox, "j", "", ["true"]).run().exits(0);
        let lock = sandbox.state_dir().join("jobs/j.lock");
        let strangers = Latch::closed(&sandbox, "strangers");
        let mut open = Command::new("sh");
        open.args(["-c", "exec \"$@\" 9<>\"$0\""]).arg(&lock);
        let mut stranger = Bystander::start(&strangers, &mut open);
        strangers.keeps(1);
        plant_note(&lock, stranger.0.id());
        let end = || {
            if by_stop {
                stop(&sandbox, "j").arg("-k").arg(GRACE).run()
            } else {
                run(&sandbox, "j", &format!("--policy replace -k {GRACE}"), ["true"]).run()
            }
        };
        // Held by somebody else: that one ends.
        let latch = Latch::closed(&sandbox, "latch");
        let mut holder = Bystander::start(&latch, Command::new("flock").arg("-nF").arg(&lock));
        latch.keeps(1);
        end().exits(0);
        assert!(holder.0.wait().unwrap().signal().is_some(), "the holder was to end");
        stranger.lives();
        // Held by nobody: nobody ends.
        plant_note(&lock, stranger.0.id());
        end().exits(if by_stop { 4 } else { 0 });
        stranger.lives();
        JobLedger::read(&sandbox, "j").judge();
    }
}

/// Each job would fail if another one ran: it takes a lock of its own, and does not wait.
#[test]
fn a_storm_of_twenty_replacements_leaves_exactly_one_running() {
    const STARTS: usize = 20;
    let sandbox = Sandbox::new();
    let strangers = Latch::closed(&sandbox, "strangers");
    let other = run(&sandbox, "other", "", strangers.command()).start();
    let mut stranger = Bystander::start(&strangers, &mut Command::new("env"));
    strangers.keeps(2);
    let latch = Latch::closed(&sandbox, "latch");
    let alone = format!("exec 8>'{}'; flock -n 8 || exit 99;", sandbox.path("alone").display());
    let gate = sandbox.gate();
    let start = |_| run(&sandbox, "j", "--policy replace", latch.after(&alone)).through(&gate).start();
    let runs: Vec<Running> = (0..STARTS).map(start).collect();
    gate.open_for(STARTS);
    eventually("all but one have ended", || {
        let ledger = JobLedger::read(&sandbox, "j");
        ledger.events("started").len() == STARTS && ledger.outcomes().len() == STARTS - 1
    });
    latch.keeps(1);
    stranger.lives();
    strangers.keeps(2);
    latch.open();
    let codes: Vec<_> = runs.into_iter().map(|run| run.finish().code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    let replaced = ["replaced"; STARTS - 1];
    assert_eq!(ledger.outcomes(), [&replaced[..], &["succeeded"]].concat());
    strangers.open();
    other.finish().exits(0);
}

#[test]
fn stop_ends_the_run_and_says_when_there_is_none() {
    let sandbox = Sandbox::new();
    stop(&sandbox, "j").fails(66);
    run(&sandbox, "other", "", ["true"]).run().exits(0);
    stop(&sandbox, "j").fails(66);
    stop(&sandbox, "other").run().exits(4);
    let latch = Latch::closed(&sandbox, "latch");
    let first = run(&sandbox, "j", "", latch.command()).start();
    latch.keeps(1);
    stop(&sandbox, "other").run().exits(4);
    stop(&sandbox, "j").run().exits(0);
    first.finish().exits(143);
    stop(&sandbox, "j").run().exits(4);
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    was_ended(&ledger, 1, "stop", "stopped");
    assert_eq!(ledger.lines.len(), 3, "a stop that stopped nothing left a line");
}

#[test]
fn an_orphaned_job_is_stopped_and_its_end_recorded() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let pid = orphan(&sandbox, &latch, latch.command());
    stop(&sandbox, "j").run().exits(0);
    assert!(!is_running(pid));
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    assert_eq!(ledger.outcomes(), ["skipped", "stopped"]);
}

/// Nobody is skipped because of a stop: not while it looks, and not right after it.
#[test]
fn a_start_right_after_a_stop_is_not_skipped() {
    let sandbox = Sandbox::new();
    for _ in 0..25 {
        let latch = Latch::closed(&sandbox, "latch");
        let first = run(&sandbox, "j", "", latch.command()).start();
        latch.keeps(1);
        stop(&sandbox, "j").run().exits(0);
        run(&sandbox, "j", "-n", ["true"]).run().exits(0);
        first.finish().exits(143);
    }
    let looking = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while looking.load(std::sync::atomic::Ordering::Relaxed) {
                let finished = run(&sandbox, "idle", "-n", ["true"]).run();
                // It may be what is stopped; in the way of a stop there is nothing.
                assert!(matches!(finished.code(), Some(0 | 143)), "{finished:?}");
            }
        });
        for _ in 0..100 {
            let code = stop(&sandbox, "idle").run().code();
            assert!(matches!(code, Some(0 | 4 | 66)), "{code:?}");
        }
        looking.store(false, std::sync::atomic::Ordering::Relaxed);
    });
    let ledger = JobLedger::read(&sandbox, "idle");
    ledger.judge();
    for end in ledger.events("ended").into_iter().filter(|end| end["outcome"] == "stopped") {
        was_ended(&ledger, end["run"].as_u64().unwrap(), "stop", "stopped");
    }
}

/// `stop` ends the run there is. Who waits for its lock was not meant.
#[test]
fn who_waits_for_a_run_that_is_stopped_runs() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run(&sandbox, "j", "", latch.command()).start();
    latch.keeps(1);
    let after = Latch::closed(&sandbox, "after");
    let waiter = run(&sandbox, "j", "-w 60", after.command()).start();
    let lock = fs::File::open(sandbox.state_dir().join("jobs/j.lock")).unwrap();
    eventually("it waits", || waiters(&lock) == 1);
    stop(&sandbox, "j").run().exits(0);
    first.finish().exits(143);
    after.keeps(1);
    // Replacing is another matter: it ends whoever is in its way, and says so of each.
    run(&sandbox, "j", "--policy replace", ["true"]).run().exits(0);
    waiter.finish().exits(143);
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    assert_eq!(ledger.outcomes(), ["stopped", "replaced", "succeeded"]);
}

/// The successor of the run that is replaced may be one that waited; whatever is ended, the ledger knows by whom.
#[test]
fn replacing_among_waiters_leaves_no_end_unexplained() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run(&sandbox, "j", "", latch.command()).start();
    latch.keeps(1);
    let waiters_: Vec<Running> = (0..4).map(|_| run(&sandbox, "j", "-w 60", latch.command()).start()).collect();
    sandbox.stand_in("jobs/j.lane", 4);
    let replacement = run(&sandbox, "j", "--policy replace", ["true"]).start();
    eventually("it has its turn", || JobLedger::read(&sandbox, "j").position("end_requested", 1).is_some());
    let finished = replacement.finish();
    finished.exits(0);
    latch.open();
    first.finish().exits(143);
    // It goes before them, and ends none of them.
    for waiter in waiters_ {
        waiter.finish().exits(0);
    }
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    for end in ledger.events("ended") {
        let run = end["run"].as_u64().unwrap();
        match end["outcome"].as_str().unwrap() {
            "succeeded" => {}
            "replaced" if run == 1 => was_ended(&ledger, run, "replace", "replaced"),
            other => panic!("nobody asked for {other}: {end}"),
        }
    }
}

/// It has the lock, and its start is not in the ledger yet: its commit lock comes late.
#[test]
fn a_run_that_is_ended_before_its_start_is_recorded_is_no_secret() {
    if !machine::may_trace("ended before its start is recorded") {
        return;
    }
    let sandbox = Sandbox::new();
    let late = strace::tracing(&sandbox.path("trace"), &["-e", "inject=flock:delay_enter=700000:when=2"]);
    let first = run(&sandbox, "j", "", ["sleep", "60"]).under(late).start();
    let lock = sandbox.state_dir().join("jobs/j.lock");
    eventually("it has the lock", || fs::read_to_string(&lock).is_ok_and(|note| note.contains("\"pid\"")));
    assert!(!job_lines::path(&sandbox, "j").exists(), "its start is recorded: this tests nothing");
    stop(&sandbox, "j").run().exits(0);
    first.finish().exits(143);
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    was_ended(&ledger, 1, "stop", "stopped");
}

/// The one that stops has the lock itself: the job's descriptor came down to it.
#[test]
fn a_job_can_stop_itself() {
    let sandbox = Sandbox::new();
    let state = sandbox.state_dir().display().to_string();
    let script = format!("'{}' --state-dir '{state}' stop j; sleep 60 >/dev/null 2>&1", crate::sandbox::TRIPLOCK);
    let finished = run(&sandbox, "j", "", shell(&script)).run();
    assert!(finished.exits(143).took < Duration::from_secs(8), "{:?}", finished.took);
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    was_ended(&ledger, 1, "stop", "stopped");
}

/// The job that is ended takes what it started with it.
#[test]
fn what_a_run_started_ends_with_it() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let line = "flock -sF \"$0\" true & flock -sF \"$0\" true & wait";
    let script: Vec<OsString> = shell(line).into_iter().chain([sandbox.path("latch").into()]).collect();
    let first = run(&sandbox, "j", "", script).start();
    latch.keeps(2);
    let pids = latch.jobs();
    stop(&sandbox, "j").run().exits(0);
    first.finish().exits(143);
    assert!(pids.iter().all(|pid| !is_running(*pid)), "{pids:?}");
    // The instrument tells the difference.
    let mut alive = Bystander::start(&latch, &mut Command::new("env"));
    latch.keeps(1);
    assert!(is_running(latch.jobs()[0]));
    signal(latch.jobs()[0], Signal::KILL);
    alive.0.wait().unwrap();
}
