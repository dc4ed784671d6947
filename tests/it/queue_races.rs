//! Adding, cancelling, pausing and resuming, all at once.

use std::{fs, os::unix::fs::MetadataExt as _, thread, time::Duration};

use crate::{
    lanes::{ascend, noted, number, run_id},
    latch::Latch,
    machine,
    queue::latch_job,
    sandbox::{Invocation, Sandbox, eventually},
    strace,
};

/// A lane whose first run waits for the latch, and so many behind it that have lost their processes.
fn stranded(sandbox: &Sandbox, latch: &Latch, runs: usize) -> Vec<String> {
    latch_job(sandbox, "mail", latch).run().exits(0);
    latch.keeps(1);
    let runs: Vec<_> = (0..runs).map(|_| sandbox.queued("mail", &noted(""))).collect();
    for run in &runs {
        sandbox.kills(run);
    }
    eventually("they have no process", || runs.iter().all(|run| sandbox.stands(run).as_deref() == Some("stranded")));
    runs
}

#[test]
fn nobody_is_passed_over_by_a_resume_while_others_are_added() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let runs = stranded(&sandbox, &latch, 30);
    let added: Vec<_> = thread::scope(|scope| {
        let resume = scope.spawn(|| sandbox.queue(["resume", "mail"]).run());
        let added = (0..10).map(|_| sandbox.queued("mail", &noted(""))).collect();
        resume.join().unwrap().exits(0);
        added
    });
    assert!(sandbox.listed("mail").iter().all(|(_, state)| state != "stranded"), "{:?}", sandbox.listed("mail"));
    latch.open();
    for run in runs.iter().chain(&added) {
        sandbox.ends(run, 0);
    }
    let order = sandbox.order();
    ascend(&order);
    assert_eq!(order.len(), 40);
}

#[test]
fn a_pause_during_a_resume_holds() {
    for _ in 0..5 {
        let sandbox = Sandbox::new();
        let latch = Latch::closed(&sandbox, "latch");
        let runs = stranded(&sandbox, &latch, 20);
        thread::scope(|scope| {
            let resume = scope.spawn(|| sandbox.queue(["resume"]).run());
            sandbox.queue(["pause", "mail"]).run().exits(0);
            resume.join().unwrap().exits(0);
        });
        latch.open();
        sandbox.ends("mail/1", 0);
        // Whoever is first has seen that its lane is paused, and is told of the end of that by a watch.
        eventually("it waits for the end of the pause", || {
            sandbox.processes_in("mail").into_values().next().is_some_and(crate::lanes::has_watch)
        });
        assert_eq!(sandbox.order(), Vec::<u64>::new());
        sandbox.queue(["resume", "mail"]).run().exits(0);
        sandbox.ends(&runs[19], 0);
        ascend(&sandbox.order());
    }
}

#[test]
fn who_adds_is_not_ended_by_who_cancels() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "mail", &latch).run().exits(0);
    latch.keeps(1);
    thread::scope(|scope| {
        let cancels = scope.spawn(|| {
            for _ in 0..60 {
                sandbox.queue(["cancel", "mail"]).run();
            }
        });
        while !cancels.is_finished() {
            run_id(&sandbox.adds("mail", &[], &noted("")).run());
        }
    });
    sandbox.queue(["cancel", "mail"]).run();
    latch.open();
    sandbox.ends("mail/1", 0);
    sandbox.lane_empties("mail");
    assert_eq!(sandbox.order(), Vec::<u64>::new(), "one ran that was cancelled");
}

/// Killed before it has recorded anything, and between the record and the removal of the run's file.
#[test]
fn a_run_whose_cancel_was_killed_is_cancelled_or_runs_and_not_both() {
    if !machine::may_trace("a cancel that is killed") {
        return;
    }
    for when in 1..=2 {
        let sandbox = Sandbox::new();
        let latch = Latch::closed(&sandbox, "latch");
        latch_job(&sandbox, "mail", &latch).run().exits(0);
        latch.keeps(1);
        let run = sandbox.queued("mail", &noted(""));
        let kill = format!("inject=renameat,renameat2:signal=KILL:when={when}");
        let killed = strace::tracing(&sandbox.path("trace"), &["-e", &kill]);
        assert_ne!(sandbox.queue(["cancel", &run]).under(killed).run().code(), Some(0));
        latch.open();
        sandbox.lane_empties("mail");
        let (ran, fate) = (!sandbox.order().is_empty(), sandbox.fates("mail")[&number(&run)].clone());
        assert_eq!((ran, fate.as_str()), if when == 1 { (true, "succeeded") } else { (false, "cancelled") });
    }
}

/// Whoever appends to a ledger and is stopped amid that keeps everybody else from it for as long.
#[test]
fn a_turn_that_cannot_be_recorded_for_a_while_is_kept() {
    /// As long as an append waits, and a little more.
    const LONG: Duration = Duration::from_secs(11);
    let test = "queue_races::a_turn_that_cannot_be_recorded_for_a_while_is_kept";
    if !machine::has(test, &["flock"]) {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.queue(["pause", "mail"]).run().exits(0);
    let runs = ["", ""].map(|then| sandbox.queued("mail", &noted(then)));
    sandbox.pipe("go");
    let commit = sandbox.jobs("mail.commit");
    let stopped = Invocation::of("flock").arg(&commit).arg("sh").arg("-c").arg("echo $$ >held; read x <go");
    let stopped = stopped.in_directory(sandbox.path("")).start();
    sandbox.pid_in("held");
    // As `resume` ends a pause, which asks who else appends.
    fs::remove_file(sandbox.jobs("mail.queue/paused")).unwrap();
    let inode = format!(":{} ", fs::metadata(&commit).unwrap().ino());
    eventually("the first one waits to record its start", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&inode))
    });
    thread::sleep(LONG);
    sandbox.open_pipe("go");
    stopped.finish().exits(0);
    for run in &runs {
        sandbox.ends(run, 0);
    }
    assert_eq!(sandbox.order(), runs.map(|run| number(&run)));
}
