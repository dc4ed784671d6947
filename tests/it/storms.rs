//! Many runs at once, many in a row, and kill -9 amid them: no deadlock, no needless skip, no lost line.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    job_lines::{self, JobLedger},
    latch::{run, shell},
    machine,
    sandbox::{Invocation, Sandbox, eventually},
    strace,
};

/// Adds one to a number in a file, without any lock of its own.
fn count_up(path: &Path) -> [std::ffi::OsString; 3] {
    shell(&format!("read n <'{0}'; echo $((n + 1)) >'{0}'", path.display()))
}

fn number_in(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// Two of the jobs ask for the same two locks in opposite orders, and the locks are the only thing that keeps the three
/// jobs apart.
#[test]
fn three_jobs_over_two_locks_in_opposite_orders_never_deadlock() {
    const RUNS: usize = 1000;
    let sandbox = Sandbox::new();
    let number = sandbox.path("number");
    fs::write(&number, "0\n").unwrap();
    let jobs = [("a", "--lock A --lock B"), ("b", "--lock B --lock A"), ("c", "--lock A --lock B --lock A")];
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= RUNS {
                        return;
                    }
                    let (job, locks) = jobs[turn % jobs.len()];
                    run(&sandbox, job, &format!("--policy wait {locks}"), count_up(&number)).run().exits(0);
                }
            });
        }
    });
    assert_eq!(number_in(&number), RUNS, "two ran under the same lock at once");
    let mut started = 0;
    for (job, _) in jobs {
        let ledger = JobLedger::read(&sandbox, job);
        ledger.judge();
        started += ledger.count("succeeded");
    }
    assert_eq!(started, RUNS);
}

/// A named lock that is held keeps a job out, and is named.
#[test]
fn a_lock_that_another_job_holds_is_named_in_the_skip() {
    let sandbox = Sandbox::new();
    let latch = crate::latch::Latch::closed(&sandbox, "latch");
    let first = run(&sandbox, "a", "--lock L", latch.command()).start();
    latch.keeps(1);
    run(&sandbox, "b", "--lock L --lock K", ["true"]).fails(75);
    run(&sandbox, "b", "--lock L -w 0.1", ["true"]).fails(75);
    // What was taken on the way is given back.
    run(&sandbox, "b", "--lock K", ["true"]).run().exits(0);
    latch.open();
    first.finish().exits(0);
    let ledger = JobLedger::read(&sandbox, "b");
    ledger.judge();
    for skip in ledger.events("not_run") {
        assert!(skip["reason"].as_str().unwrap().contains("lock L"), "{skip}");
        assert_eq!(skip["holder"]["pid"], JobLedger::read(&sandbox, "a").events("started")[0]["pid"], "{skip}");
    }
}

/// Looking takes no lock; then the same job, grown long, costs what a short one costs to look at.
#[test]
fn uncontended_runs_beside_a_status_loop_are_never_skipped() {
    let runs = machine::number("TRIPLOCK_RUNS", 2000);
    let sandbox = Sandbox::new();
    let short = Sandbox::new();
    for _ in 0..10 {
        run(&short, "j", "-n", ["true"]).run().exits(0);
    }
    let done = AtomicBool::new(false);
    let looks = AtomicUsize::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for words in [&["status"][..], &["status", "j"]] {
                    let code = sandbox.triplock(words).run().code();
                    // Before the first run there is no such job.
                    assert!(code == Some(0) || looks.load(Ordering::Relaxed) < 10, "{words:?}: {code:?}");
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let _done = SetOnDrop(&done);
        for _ in 0..runs {
            run(&sandbox, "j", "-n", ["true"]).run().exits(0);
        }
    });
    let took = begun.elapsed();
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    assert_eq!((ledger.count("skipped"), ledger.count("succeeded")), (0, runs));
    println!("{runs} runs beside {} looks in {took:?}", looks.into_inner());
    if machine::may_trace("what looking at a long ledger costs") {
        for words in [&["status"][..], &["status", "j"], &["history", "j", "-n", "20"], &["history", "-n", "20"]] {
            let (few, many) = (calls_of(&short, words), calls_of(&sandbox, words));
            println!("{words:?}: {few} system calls with 10 runs, {many} with {runs}");
            assert!(many <= few * 2, "{words:?}: {few} system calls with 10 runs, {many} with {runs}");
        }
    }
}

/// Also when a panic passes by, so that whoever looks at it ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn calls_of(sandbox: &Sandbox, words: &[&str]) -> usize {
    let trace = sandbox.path("trace");
    sandbox.triplock(words).under(strace::tracing(&trace, &[])).run().exits(0);
    // What it asks of /proc is about the machine, not about the ledger.
    strace::calls(&trace).iter().filter(|call| !call.text.contains("/proc")).count()
}

/// The fences that one job shows, run after run.
struct Fences<'a> {
    sandbox: &'a Sandbox,
    note: PathBuf,
    last: u64,
}

impl Fences<'_> {
    fn show(&self, then: &str) -> Invocation {
        // Whole or not at all: somebody may look meanwhile.
        let script = format!("echo $TRIPLOCK_FENCE >'{0}.new'; mv '{0}.new' '{0}'; {then}", self.note.display());
        run(self.sandbox, "j", "-w 60", shell(&script))
    }

    #[track_caller]
    fn is_higher(&mut self, what: &str) {
        let fence = number_in(&self.note) as u64;
        assert!(fence > self.last, "{fence} after {}: {what}", self.last);
        self.last = fence;
        fs::remove_file(&self.note).unwrap();
    }

    #[track_caller]
    fn grow(&mut self, what: &str) {
        self.show("").run().exits(0);
        self.is_higher(what);
    }
}

#[test]
fn a_fence_grows_whatever_happens_to_the_files() {
    let sandbox = Sandbox::new();
    let mut fences = Fences { sandbox: &sandbox, note: sandbox.path("note"), last: 0 };
    let lock = sandbox.state_dir().join("jobs/j.lock");
    let ledger = job_lines::path(&sandbox, "j");
    fences.grow("the first");
    fences.grow("the second");
    let running = fences.show("sleep 0.05 >/dev/null 2>&1").start();
    eventually("it shows its fence", || fences.note.exists());
    running.kill();
    running.finish();
    fences.is_higher("it runs");
    fences.grow("one that had shown its fence was killed");
    fs::remove_file(&lock).unwrap();
    fences.grow("the lock file was removed");
    fs::write(&lock, "").unwrap();
    fences.grow("the lock file was emptied");
    // As long as the lock file remembers, the ledger may go.
    fs::remove_file(&ledger).unwrap();
    fences.grow("the ledger was removed");
    // A ledger so long that it is put aside.
    let text = fs::read_to_string(&ledger).unwrap();
    let line = text.lines().next().unwrap();
    fs::write(&ledger, format!("{line}\n").repeat((17 << 20) / line.len()) + &text).unwrap();
    fences.grow("the ledger is long");
    fences.grow("the ledger was put aside");
    assert!(ledger.with_extension("old").exists(), "it was not put aside");
    assert!(fs::metadata(&ledger).unwrap().len() < 1 << 20, "it was not put aside");
    fs::remove_file(&lock).unwrap();
    fences.grow("the lock file was removed after the ledger was put aside");
}

#[test]
fn kills_at_random_moments_leave_every_line_readable_and_every_run_with_one_end() {
    const RUNS: usize = 200;
    let sandbox = Sandbox::new();
    let mut killed = 0;
    for turn in 0..RUNS {
        let command = match turn % 4 {
            0 => vec!["true".into()],
            1 => shell("sleep 0.01; exit 0").into(),
            2 => shell("exit 3").into(),
            _ => vec!["sleep".into(), "0.02".into()],
        };
        let options = if turn % 8 < 4 { "-w 60" } else { "-w 60 --retries 2 --retry-delay 0.001 --output capture" };
        let running = run(&sandbox, "j", options, command).start();
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..12_000)));
        running.kill();
        killed += usize::from(running.finish().status.signal() == Some(9));
    }
    run(&sandbox, "j", "-w 60", ["true"]).run().exits(0);
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    assert!(killed > RUNS / 4, "only {killed} were killed: these were no random moments");
    let lost = ledger.count("lost");
    assert!(lost > 10, "only {lost} were lost: these were no random moments");
    println!("{RUNS} runs, {killed} killed, {lost} recorded as lost, {} lines", ledger.lines.len());
}

#[test]
fn a_kill_at_any_call_of_a_run_does_no_harm() {
    if !machine::may_trace("kill at any call of a run") {
        return;
    }
    let fresh = || {
        let sandbox = Sandbox::new();
        run(&sandbox, "j", "", ["true"]).run().exits(0);
        sandbox
    };
    let only = |sandbox: &Sandbox, more: &[&str]| {
        let mut words = strace::tracing(&sandbox.path("trace"), more);
        // Of the wrapper alone: the command's calls are not ours.
        words.retain(|word| word != "-f");
        words
    };
    let sandbox = fresh();
    run(&sandbox, "j", "", ["true"]).under(only(&sandbox, &[])).run().exits(0);
    // Without -f strace names no process.
    let text = fs::read_to_string(sandbox.path("trace")).unwrap();
    let lines: Vec<_> = text.lines().map(|line| format!("1 {line}")).collect();
    fs::write(sandbox.path("trace"), lines.join("\n")).unwrap();
    let calls: Vec<_> = strace::calls(&sandbox.path("trace")).into_iter().filter(strace::Call::touches_files).collect();
    assert!(calls.len() > 5, "a run touches files more often than {} times", calls.len());
    for call in calls {
        let sandbox = fresh();
        let inject = format!("inject={}:signal=KILL:when={}", call.name, call.nth);
        let finished = run(&sandbox, "j", "", ["true"]).under(only(&sandbox, &["-e", &inject])).run();
        if finished.status.signal().is_none() {
            finished.complain(&format!("it was to be killed at {}", call.text));
        }
        run(&sandbox, "j", "-w 10", ["true"]).run().exits(0);
        run(&sandbox, "j", "-n", ["true"]).run().exits(0);
        let ledger = JobLedger::read(&sandbox, "j");
        ledger.judge();
        assert!(ledger.count("succeeded") >= 3, "killed at {}", call.text);
    }
}

#[test]
fn run_ids_of_skips_and_runs_at_once_are_one_sequence() {
    let sandbox = Sandbox::new();
    let codes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let code = run(&sandbox, "j", "-n", ["true"]).run().code();
                    codes.lock().unwrap().push(code);
                }
            });
        }
    });
    let codes = codes.into_inner().unwrap();
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    let with = |wanted| codes.iter().filter(|code| **code == Some(wanted)).count();
    assert_eq!((ledger.count("succeeded"), ledger.count("skipped")), (with(0), with(75)));
    assert_eq!(with(0) + with(75), 200, "{codes:?}");
}
