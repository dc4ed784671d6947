//! Whoever waits for a job's lock, or for a named one, is served in the order of coming: `run --policy wait` and queued runs
//! stand in one line.

use std::fs;

use rustix::process::Signal;

use crate::{
    job::{self, is_alive},
    job_lines::JobLedger,
    lanes::noted,
    latch::{Latch, run, shell},
    queue::latch_job,
    sandbox::{Running, Sandbox, eventually},
};

/// A run that writes that number to `order` in its turn.
fn notes(sandbox: &Sandbox, job: &str, options: &str, number: usize) -> Running {
    run(sandbox, job, options, shell(&format!("echo {number} >>order"))).in_directory(sandbox.path("")).start()
}

fn all_exit(runs: Vec<Running>, code: i32) {
    for run in runs {
        run.finish().exits(code);
    }
}

/// A job that runs, and what lets it go.
fn held(sandbox: &Sandbox, job: &str, options: &str) -> (Running, Latch) {
    let latch = Latch::closed(sandbox, "latch");
    let first = run(sandbox, job, options, latch.command()).start();
    latch.keeps(1);
    (first, latch)
}

#[test]
fn twenty_waiters_are_served_in_the_order_of_coming() {
    let sandbox = Sandbox::new();
    let (first, latch) = held(&sandbox, "j", "");
    let mut waiters = Vec::new();
    for number in 1..=20 {
        let options = ["-w 60", "--policy wait"][number % 2];
        waiters.push(notes(&sandbox, "j", options, number));
        sandbox.stand_in("jobs/j.lane", number);
    }
    latch.open();
    first.finish().exits(0);
    all_exit(waiters, 0);
    assert_eq!(sandbox.order(), (1..=20).collect::<Vec<_>>());
    JobLedger::read(&sandbox, "j").judge();
}

#[test]
fn queued_runs_and_others_stand_in_one_line() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "j", &latch).run().exits(0);
    latch.keeps(1);
    let mut waiters = Vec::new();
    for number in (1..=12).step_by(2) {
        sandbox.queued("j", &format!("echo {number} >>order"));
        // (The one that runs has none any more.)
        sandbox.stand_in("jobs/j.lane", number);
        waiters.push(notes(&sandbox, "j", "--policy wait", number + 1));
        sandbox.stand_in("jobs/j.lane", number + 1);
    }
    latch.open();
    all_exit(waiters, 0);
    sandbox.lane_empties("j");
    assert_eq!(sandbox.order(), (1..=12).collect::<Vec<_>>());
}

#[test]
fn a_waiter_that_is_killed_lets_nobody_past_those_before_it() {
    let sandbox = Sandbox::new();
    let (first, latch) = held(&sandbox, "j", "");
    let mut waiters = Vec::new();
    for number in 1..=6 {
        waiters.push(notes(&sandbox, "j", "--policy wait", number));
        sandbox.stand_in("jobs/j.lane", number);
    }
    // The third and the fourth at once, then the one that sleeps for the lock itself.
    for killed in [3, 2, 0] {
        waiters.remove(killed).dies();
    }
    sandbox.stand_in("jobs/j.lane", 3);
    assert_eq!(sandbox.order(), Vec::<u64>::new());
    latch.open();
    first.finish().exits(0);
    all_exit(waiters, 0);
    assert_eq!(sandbox.order(), [2, 5, 6]);
}

#[test]
fn who_does_not_wait_is_skipped_while_others_do_though_the_lock_is_free() {
    let sandbox = Sandbox::new();
    for (job, options, lane) in [("j", "", "jobs/j.lane"), ("other", "--lock db", "locks/db.lane")] {
        let (first, latch) = held(&sandbox, job, options);
        let waiting = ["j", "next"][usize::from(job == "other")];
        let waiter = notes(&sandbox, waiting, &format!("{options} --policy wait"), 1);
        sandbox.stand_in(lane, 1);
        // Stopped, it cannot take what is free in a moment.
        waiter.signal(Signal::STOP);
        eventually("it is stopped", || job::state(waiter.id()) == Some('T'));
        latch.open();
        first.finish().exits(0);
        for policy in ["-n", "-w 0.05"] {
            let newcomer = ["j", "third"][usize::from(job == "other")];
            let skipped = run(&sandbox, newcomer, &format!("{options} {policy}"), ["true"]).fails(75);
            let message = skipped["message"].as_str().unwrap();
            let expected = if job == "j" { "others wait for it" } else { "others wait for lock db" };
            assert!(message.contains(expected), "{skipped}");
            let ledger = JobLedger::read(&sandbox, newcomer);
            let recorded = ledger.events("not_run").pop().expect("it is recorded")["reason"].as_str().unwrap();
            assert!(recorded.contains(expected), "{recorded}");
        }
        waiter.signal(Signal::CONT);
        waiter.finish().exits(0);
        run(&sandbox, job, &format!("{options} -n"), ["true"]).run().exits(0);
    }
}

/// The lock is free for a moment at each release; who comes just then must not get it before who waits.
#[test]
fn a_newcomer_never_overtakes_at_the_moment_of_release() {
    let sandbox = Sandbox::new();
    for round in 0..25 {
        let job = format!("j{round}");
        let (first, latch) = held(&sandbox, &job, "");
        let waiter = notes(&sandbox, &job, "--policy wait", round);
        sandbox.stand_in(&format!("jobs/{job}.lane"), 1);
        let gate = sandbox.gate();
        let newcomers: Vec<_> = (0..4).map(|_| run(&sandbox, &job, "-n", ["true"]).through(&gate).start()).collect();
        eventually("they wait at the gate", || gate.waiters() == 4);
        if round % 2 == 0 {
            latch.open();
            gate.open_for(4);
        } else {
            gate.open_for(4);
            latch.open();
        }
        first.finish().exits(0);
        waiter.finish().exits(0);
        for newcomer in newcomers {
            let code = newcomer.finish().code();
            assert!(matches!(code, Some(0 | 75)), "{code:?}");
        }
        let ledger = JobLedger::read(&sandbox, &job);
        let started = ledger.events("started");
        assert!(started[1]["command"].as_str().unwrap().contains("order"), "overtaken: {started:#?}");
    }
}

#[test]
fn a_replacement_goes_before_those_that_wait_and_ends_none_of_them() {
    let sandbox = Sandbox::new();
    let (first, _latch) = held(&sandbox, "j", "");
    let mut waiters = Vec::new();
    for number in 1..=4 {
        waiters.push(notes(&sandbox, "j", "--policy wait", number));
        sandbox.stand_in("jobs/j.lane", number);
    }
    sandbox.queued("j", "echo 5 >>order");
    notes(&sandbox, "j", "--policy replace", 0).finish().exits(0);
    assert_eq!(first.finish().code(), Some(143));
    all_exit(waiters, 0);
    sandbox.lane_empties("j");
    assert_eq!(sandbox.order(), (0..=5).collect::<Vec<_>>());
    let ledger = JobLedger::read(&sandbox, "j");
    assert_eq!((ledger.count("replaced"), ledger.count("succeeded")), (1, 6));
}

#[test]
fn a_timed_wait_behind_others_ends_in_time_and_is_recorded() {
    let sandbox = Sandbox::new();
    let (first, latch) = held(&sandbox, "j", "");
    let before = notes(&sandbox, "j", "--policy wait", 1);
    sandbox.stand_in("jobs/j.lane", 1);
    let timed = notes(&sandbox, "j", "-w 0.3", 2);
    sandbox.stand_in("jobs/j.lane", 2);
    let after = notes(&sandbox, "j", "--policy wait", 3);
    sandbox.stand_in("jobs/j.lane", 3);
    timed.finish().soon().exits(75);
    sandbox.stand_in("jobs/j.lane", 2);
    assert_eq!(sandbox.order(), Vec::<u64>::new());
    latch.open();
    first.finish().exits(0);
    all_exit(vec![before, after], 0);
    assert_eq!(sandbox.order(), [1, 3]);
    let ledger = JobLedger::read(&sandbox, "j");
    let skipped = ledger.events("not_run")[0];
    assert!(skipped["outcome"] == "skipped" && skipped["wait"].as_f64().unwrap() >= 0.3, "{skipped}");
    ledger.judge();
}

#[test]
fn a_waiter_that_is_asked_to_end_is_recorded_and_lets_nobody_past() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let sandbox = Sandbox::new();
        let (first, latch) = held(&sandbox, "j", "");
        let mut waiters = Vec::new();
        for number in 1..=3 {
            waiters.push(notes(&sandbox, "j", "--policy wait", number));
            sandbox.stand_in("jobs/j.lane", number);
        }
        let middle = waiters.remove(1);
        middle.signal(signal);
        middle.finish().exits(code);
        sandbox.stand_in("jobs/j.lane", 2);
        latch.open();
        first.finish().exits(0);
        all_exit(waiters, 0);
        assert_eq!(sandbox.order(), [1, 3]);
        let ledger = JobLedger::read(&sandbox, "j");
        ledger.judge();
        assert_eq!(ledger.count("interrupted"), 1);
    }
}

#[test]
fn runs_of_many_jobs_get_a_named_lock_in_the_order_of_coming() {
    let sandbox = Sandbox::new();
    let (first, latch) = held(&sandbox, "j0", "--lock db");
    let mut waiters = Vec::new();
    for number in 1..=10 {
        let job = format!("j{number}");
        if number % 3 == 0 {
            sandbox.queued_with(&job, &["--lock", "db"], &format!("echo {number} >>order"));
        } else {
            waiters.push(notes(&sandbox, &job, "--lock db --policy wait", number));
        }
        sandbox.stand_in("locks/db.lane", number);
    }
    latch.open();
    first.finish().exits(0);
    all_exit(waiters, 0);
    for number in [3, 6, 9] {
        sandbox.lane_empties(&format!("j{number}"));
    }
    assert_eq!(sandbox.order(), (1..=10).collect::<Vec<_>>());
}

/// Whoever waits does so in the kernel.
#[test]
fn those_that_wait_take_no_processor_time() {
    let sandbox = Sandbox::new();
    let (first, latch) = held(&sandbox, "j", "");
    let mut pids = Vec::new();
    let mut waiters = Vec::new();
    for number in 1..=5 {
        waiters.push(notes(&sandbox, "j", "--policy wait", number));
        sandbox.stand_in("jobs/j.lane", 2 * number - 1);
        pids.push(waiters[number - 1].id());
        let queued = sandbox.queued("j", &noted(""));
        pids.push(sandbox.process_of(&queued).expect("it waits"));
    }
    // A paused lane as well, whose first in line waits for another thing.
    sandbox.queue(["pause", "paused"]).run().exits(0);
    for _ in 0..3 {
        let queued = sandbox.queued("paused", "true");
        pids.push(sandbox.process_of(&queued).expect("it waits"));
    }
    let sleeps = |pid: &u32| job::state(*pid) == Some('S');
    eventually("all of them sleep", || pids.iter().all(sleeps) && pids.iter().any(|pid| crate::lanes::has_watch(*pid)));
    let before: Vec<_> = pids.iter().map(|pid| ticks(*pid)).collect();
    let switches: Vec<_> = pids.iter().map(|pid| job::status(*pid, "voluntary_ctxt_switches")).collect();
    // Somebody works for half a second of processor time meanwhile.
    let busy = shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done");
    run(&sandbox, "busy", "", busy).run().exits(0);
    assert_eq!(before, pids.iter().map(|pid| ticks(*pid)).collect::<Vec<_>>());
    assert_eq!(switches, pids.iter().map(|pid| job::status(*pid, "voluntary_ctxt_switches")).collect::<Vec<_>>());
    latch.open();
    first.finish().exits(0);
    all_exit(waiters, 0);
    sandbox.queue(["resume", "paused"]).run().exits(0);
    for pid in pids {
        eventually("it is gone", || !is_alive(pid));
    }
}

/// Its time on a processor so far.
fn ticks(pid: u32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
    let fields: Vec<_> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    (fields[11].parse().expect("ticks"), fields[12].parse().expect("ticks"))
}
