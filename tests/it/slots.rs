//! `--slots N`: N at once, and whoever waits gets whichever frees first.

use std::{collections::BTreeSet, fs, os::unix::process::ExitStatusExt as _};

use rustix::process::Signal;

use crate::{
    job_lines::JobLedger,
    latch::{Latch, run, shell, signal},
    machine,
    sandbox::{Running, Sandbox, eventually, waiters},
    strace,
};

/// Fills all three, one after the other, each with a latch of its own: the first holds slot 1.
fn fill(sandbox: &Sandbox) -> Vec<(Latch, Running)> {
    (1..=3)
        .map(|slot| {
            let latch = Latch::closed(sandbox, &format!("latch{slot}"));
            let running = run(sandbox, "j", "--slots 3", latch.command()).start();
            latch.keeps(1);
            (latch, running)
        })
        .collect()
}

/// How many wait for the slots' lock files.
fn waiting(sandbox: &Sandbox) -> usize {
    let files = ["j.lock", "j.slot2", "j.slot3"].map(|file| sandbox.state_dir().join("jobs").join(file));
    files.iter().map(|file| waiters(&fs::File::open(file).expect("open a slot's file"))).sum()
}

#[test]
fn never_more_than_three_run_at_once_and_all_run() {
    const STARTS: usize = 30;
    let sandbox = Sandbox::new();
    let diary = sandbox.path("diary");
    let script = format!("echo + >>'{0}'; sleep 0.03; echo - >>'{0}'", diary.display());
    let gate = sandbox.gate();
    let start = |_| run(&sandbox, "j", "--slots 3 -w 80", shell(&script)).through(&gate).start();
    let runs: Vec<Running> = (0..STARTS).map(start).collect();
    gate.open_for(STARTS);
    for run in runs {
        run.finish().exits(0);
    }
    let (mut now, mut most) = (0, 0);
    for line in fs::read_to_string(&diary).unwrap().lines() {
        now += if line == "+" { 1 } else { -1 };
        most = now.max(most);
    }
    assert_eq!((now, most), (0, 3), "at the end, at most");
    let ledger = JobLedger::read(&sandbox, "j");
    // Fences grow from start to start, whichever the slot.
    ledger.judge();
    assert_eq!(ledger.count("succeeded"), STARTS);
    let slots: BTreeSet<_> = ledger.events("started").iter().map(|line| line["slot"].as_u64().unwrap()).collect();
    assert_eq!(slots, BTreeSet::from([1, 2, 3]));
}

#[test]
fn a_waiter_gets_whichever_slot_frees_first() {
    for freed in [3, 2, 1] {
        let sandbox = Sandbox::new();
        let mut holders = fill(&sandbox);
        let note = sandbox.path("note");
        let script = format!("echo \"$TRIPLOCK_LOCK_FILE $TRIPLOCK_FENCE\" >'{}'", note.display());
        let waiter = run(&sandbox, "j", "--slots 3 -w 60", shell(&script)).start();
        eventually("it waits for all three", || waiting(&sandbox) == 3);
        let (latch, running) = holders.remove(freed - 1);
        latch.open();
        running.finish().exits(0);
        waiter.finish().exits(0);
        let name = if freed == 1 { "j.lock".to_owned() } else { format!("j.slot{freed}") };
        let expected = format!("{} 4\n", sandbox.state_dir().join("jobs").join(name).display());
        assert_eq!(fs::read_to_string(&note).unwrap(), expected);
        // It keeps none of the locks that it did not get.
        assert_eq!(waiting(&sandbox), 0);
        run(&sandbox, "j", "--slots 3", ["true"]).run().exits(0);
        for (latch, running) in holders {
            latch.open();
            running.finish().exits(0);
        }
        let ledger = JobLedger::read(&sandbox, "j");
        ledger.judge();
        assert_eq!(ledger.events("started")[3]["slot"], freed, "{ledger:#?}");
    }
}

#[test]
fn with_all_slots_taken_a_run_is_skipped() {
    let sandbox = Sandbox::alone();
    let holders = fill(&sandbox);
    run(&sandbox, "j", "--slots 3", ["true"]).fails(75);
    let timed = run(&sandbox, "j", "--slots 3 -w 0.3", ["true"]).run();
    timed.fails(75);
    assert!((0.3..0.8).contains(&timed.took.as_secs_f64()), "{:?}", timed.took);
    // Asked for fewer, it sees fewer; for more, it gets one.
    run(&sandbox, "j", "", ["true"]).fails(75);
    run(&sandbox, "j", "--slots 4", ["true"]).run().exits(0);
    let waiter = run(&sandbox, "j", "--slots 3 -w 60", ["true"]).start();
    eventually("it waits", || waiting(&sandbox) == 3);
    waiter.signal(Signal::TERM);
    waiter.finish().exits(143);
    for (latch, running) in holders {
        latch.open();
        running.finish().exits(0);
    }
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    assert_eq!((ledger.count("skipped"), ledger.count("interrupted"), ledger.count("succeeded")), (3, 1, 4));
    let held_by: Vec<_> = ledger.events("started").iter().map(|line| line["pid"].as_u64()).collect();
    for skip in ledger.events("not_run").iter().filter(|line| line["outcome"] == "skipped") {
        assert!(held_by.contains(&skip["holder"]["pid"].as_u64()), "{skip}");
    }
}

#[test]
fn a_killed_run_frees_its_slot_when_its_job_is_gone() {
    let sandbox = Sandbox::new();
    let mut holders = fill(&sandbox);
    let (latch, running) = holders.remove(1);
    running.kill();
    assert_eq!(running.finish().status.signal(), Some(9));
    run(&sandbox, "j", "--slots 3", ["true"]).fails(75);
    let waiter = run(&sandbox, "j", "--slots 3 -w 60", ["true"]).start();
    eventually("it waits", || waiting(&sandbox) == 3);
    signal(latch.jobs()[0], Signal::KILL);
    waiter.finish().exits(0);
    for (latch, running) in holders {
        latch.open();
        running.finish().exits(0);
    }
    let ledger = JobLedger::read(&sandbox, "j");
    ledger.judge();
    let lost: Vec<_> = ledger.events("ended").into_iter().filter(|line| line["outcome"] == "lost").collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0]["run"], 2, "{lost:?}");
}

#[test]
fn waiting_for_a_slot_polls_nothing() {
    if !machine::may_trace("no polling for a slot") {
        return;
    }
    let sandbox = Sandbox::new();
    let holders = fill(&sandbox);
    let trace = sandbox.path("trace");
    let waiter = run(&sandbox, "j", "--slots 3 -w 60", ["true"]).under(strace::tracing(&trace, &[])).start();
    eventually("it waits", || waiting(&sandbox) == 3);
    // Long enough for any poller to show itself.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let so_far = fs::read_to_string(&trace).unwrap();
    // (At its start every process looks once or twice whether its standard descriptors are open; that is no wait.)
    let polls = so_far.lines().filter(|line| line.contains("ppoll(") || line.contains("nanosleep(")).count();
    assert!(polls <= 2, "{so_far}");
    for (latch, running) in holders {
        latch.open();
        running.finish().exits(0);
    }
    waiter.finish().exits(0);
    let calls = strace::calls(&trace);
    let waits: Vec<_> = calls
        .iter()
        .filter(|call| call.is("flock", "/jobs/j.") && call.is("flock", "LOCK_EX") && !call.text.contains("LOCK_NB"))
        .filter(|call| !call.text.contains("j.commit") && !call.text.contains("j.lane"))
        .collect();
    let by_file: BTreeSet<_> = waits.iter().map(|call| call.text.split(',').next()).collect();
    assert_eq!(by_file.len(), 3, "one blocking flock for each slot: {waits:#?}");
}
