//! Runs that follow others, and the circles that do not come to be.

use crate::{
    job::is_alive,
    lanes::{noted, number, run_id},
    latch::Latch,
    queue::latch_job,
    sandbox::{Finished, Sandbox, eventually},
};

/// What `queue wait` said is one line.
fn one_line(finished: &Finished) -> &str {
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    &finished.stderr
}

#[test]
fn a_run_starts_after_those_that_it_follows_across_lanes() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run_id(&latch_job(&sandbox, "import", &latch).run());
    latch.keeps(1);
    let second = sandbox.queued("import", "echo 2 >>order");
    // Its own lane is empty, so nothing else keeps it.
    let report = sandbox.queued_with("report", &["--after", &second, "--after", &first], "echo 3 >>order");
    let mail = sandbox.queued_with("mail", &["--after", &report], "echo 4 >>order");
    let behind = sandbox.queued("mail", "echo 5 >>order");
    let listed = sandbox.listed_whole("report");
    assert_eq!(listed[0]["after"], serde_json::json!([second, first]), "{listed:?}");
    assert_eq!(sandbox.order(), Vec::<u64>::new());
    latch.open();
    sandbox.ends(&behind, 0);
    assert_eq!(sandbox.order(), [2, 3, 4, 5]);
    for run in [&first, &second, &report, &mail] {
        sandbox.ends(run, 0);
    }
}

#[test]
fn what_follows_a_failure_is_not_run_and_neither_is_what_follows_that() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "a", &latch).run().exits(0);
    latch.keeps(1);
    let fails = sandbox.queued("a", "exit 3");
    let second = sandbox.queued_with("a", &["--after", &fails], &noted(""));
    let third = sandbox.queued_with("b", &["--after", &second], &noted(""));
    let whatever = sandbox.queued_with("c", &["--after", &third, "--even-if-failed"], "echo 9 >>order");
    let behind = sandbox.queued("b", "echo 8 >>order2");
    latch.open();
    sandbox.ends(&fails, 3);
    for (run, of) in [(&second, &fails), (&third, &second)] {
        let finished = sandbox.ends(run, 125);
        let line = one_line(&finished);
        assert!(line.contains("dependency failed") && line.contains(of.as_str()), "{line}");
        assert_eq!(sandbox.fates(run.split('/').next().unwrap())[&number(run)], "dependency_failed");
        assert_eq!(sandbox.stands(run), None);
    }
    sandbox.ends(&whatever, 0);
    sandbox.ends(&behind, 0);
    assert_eq!(sandbox.order(), [9]);
    assert_eq!(sandbox.written("order2"), "8\n");
}

#[test]
fn a_run_can_follow_one_that_is_over() {
    let sandbox = Sandbox::new();
    let well = sandbox.queued("a", "true");
    sandbox.ends(&well, 0);
    let badly = sandbox.queued("a", "false");
    sandbox.ends(&badly, 1);
    sandbox.sh("a", &[], "true").exits(0);
    for (after, code) in [(&well, 0), (&badly, 125), (&"a/3".to_owned(), 0)] {
        let run = sandbox.queued_with("b", &["--after", after], "true");
        sandbox.ends(&run, code);
        let run = sandbox.queued_with("b", &["--after", after, "--even-if-failed"], "true");
        sandbox.ends(&run, 0);
    }
}

#[test]
fn a_run_that_follows_a_cancelled_one_is_not_run() {
    let sandbox = Sandbox::new();
    sandbox.queue(["pause", "a"]).run().exits(0);
    let first = sandbox.queued("a", "true");
    let second = sandbox.queued_with("b", &["--after", &first], &noted(""));
    let third = sandbox.queued_with("b", &["--after", &first, "--even-if-failed"], &noted(""));
    sandbox.queue(["cancel", &first]).run().exits(0);
    let late = sandbox.queued_with("c", &["--after", &first], &noted(""));
    for run in [&second, &late] {
        let finished = sandbox.ends(run, 125);
        assert!(one_line(&finished).contains("cancelled"), "{finished:?}");
    }
    sandbox.ends(&third, 0);
    assert_eq!(sandbox.order(), [number(&third)]);
}

/// A run whose process is gone may run one day, so who follows it is kept, and does not hold up its lane.
#[test]
fn a_run_that_follows_one_without_a_process_is_kept_and_resume_runs_both_in_order() {
    for (lane, of) in [("a", "a"), ("a", "b"), ("b", "a")] {
        let sandbox = Sandbox::new();
        sandbox.queue(["pause", of]).run().exits(0);
        let first = sandbox.queued(of, "echo 1 >>order");
        sandbox.kills(&first);
        let second = sandbox.queued_with(lane, &["--after", &first], "echo 2 >>order");
        let third = sandbox.queued_with("c", &["--after", &second], "echo 3 >>order");
        if lane == of {
            // It is kept back by the pause as well, until that is over.
            sandbox.kills(&second);
        }
        eventually("they have no process", || {
            let states = [&first, &second, &third].map(|run| sandbox.stands(run));
            states.iter().all(|state| state.as_deref() == Some("stranded"))
        });
        for run in [&first, &second, &third] {
            let finished = sandbox.ends(run, 125);
            assert!(one_line(&finished).contains("queue resume"), "{finished:?}");
        }
        assert_eq!(sandbox.order(), Vec::<u64>::new());
        let resumed = sandbox.queue(["resume"]).run();
        assert_eq!(resumed.exits(0).stdout.lines().count(), 3, "{resumed:?}");
        // Who means all lanes ends no pause.
        assert_eq!(sandbox.stands(&first).as_deref(), Some("paused"));
        sandbox.queue(["resume", of]).run().exits(0);
        sandbox.ends(&third, 0);
        assert_eq!(sandbox.order(), [1, 2, 3], "{lane} {of}");
    }
}

/// Also when others in its lane find it gone at once.
#[test]
fn a_run_that_gave_up_its_process_says_why_and_the_resume_of_what_it_follows_names_its_lane() {
    for _ in 0..5 {
        let sandbox = Sandbox::new();
        sandbox.queue(["pause", "a"]).run().exits(0);
        sandbox.queue(["pause", "b"]).run().exits(0);
        let followed = sandbox.queued("a", "true");
        sandbox.kills(&followed);
        eventually("it has no process", || sandbox.stands(&followed).as_deref() == Some("stranded"));
        let follows = sandbox.queued_with("b", &["--after", &followed], "true");
        let behind: Vec<_> = (0..3).map(|_| sandbox.queued("b", "true")).collect();
        sandbox.queue(["resume", "b"]).run().exits(0);
        for run in &behind {
            sandbox.ends(run, 0);
        }
        let listed = sandbox.listed_whole("b");
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0]["note"], format!("{followed}, which it is to follow, has no process"));
        let resumed = sandbox.queue(["resume", "a"]).run();
        assert!(resumed.exits(0).stderr.contains("triplock queue resume b"), "{resumed:?}");
        sandbox.queue(["resume", "b"]).run().exits(0);
        sandbox.ends(&follows, 0);
    }
}

/// However many others are given a process in between.
#[test]
fn resume_gives_nobody_a_process_before_what_it_follows() {
    let sandbox = Sandbox::new();
    for lane in ["a", "m", "z"] {
        sandbox.queue(["pause", lane]).run().exits(0);
    }
    let first = sandbox.queued("z", "echo 1 >>order");
    let second = sandbox.queued_with("a", &["--after", &first], "echo 2 >>order");
    let others: Vec<_> = (0..60).map(|_| sandbox.queued("m", "true")).collect();
    sandbox.kills_everything();
    let resumed = sandbox.queue(["resume"]).run();
    assert_eq!(resumed.exits(0).stdout.lines().count(), 62, "{resumed:?}");
    for lane in ["a", "m", "z"] {
        sandbox.queue(["resume", lane]).run().exits(0);
    }
    sandbox.ends(&second, 0);
    sandbox.ends(&others[59], 0);
    assert_eq!(sandbox.order(), [1, 2]);
}

#[test]
fn a_run_cannot_follow_one_that_is_not_there_yet() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "a", &latch).run().exits(0);
    latch.keeps(1);
    // Its own number, the next one, and one of a lane that there is not.
    for after in ["a/2", "a/3", "b/1"] {
        let refused = sandbox.adds("a", &["--after", after], "true").run();
        refused.exits(66);
        assert!(one_line(&refused).contains(after) && refused.stdout.is_empty(), "{refused:?}");
    }
    assert_eq!(sandbox.listed("a").len(), 1, "half of one is there");
    assert_eq!(sandbox.queued("a", "true"), "a/2");
    latch.open();
    sandbox.ends("a/2", 0);
}

#[test]
fn a_job_cannot_wait_for_a_run_that_waits_for_it() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let wait = |run: &str| {
        let words = sandbox.queue(["wait", run]).words();
        let words: Vec<_> = words.iter().map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        format!("{} 2>>said; echo $? >>codes;", words.join(" "))
    };
    // Behind it in its lane; in another lane, following that; behind the latter; itself.
    let script = ["a/2", "b/1", "b/2", "a/1"].map(wait).concat();
    let after = latch.after("").iter().skip(3).map(|w| w.to_str().unwrap().to_owned()).collect::<String>();
    let script = format!("flock -sF '{after}' true; {script} {} true", wait("c/1"));
    assert_eq!(sandbox.queued("a", &script), "a/1");
    latch.keeps(1);
    assert_eq!(sandbox.queued("a", &noted("")), "a/2");
    assert_eq!(sandbox.queued_with("b", &["--after", "a/2"], "true"), "b/1");
    assert_eq!(sandbox.queued("b", "true"), "b/2");
    // That one does not.
    assert_eq!(sandbox.queued("c", "exit 7"), "c/1");
    latch.open();
    sandbox.ends("a/1", 0);
    assert_eq!(sandbox.written("codes"), "125\n125\n125\n125\n7\n");
    let said = sandbox.written("said");
    assert_eq!(said.lines().count(), 5, "{said}");
    for run in ["a/2", "b/1", "b/2"] {
        sandbox.ends(run, 0);
    }
}

#[test]
fn a_cancelled_run_s_process_is_gone_at_once_and_lets_nobody_past() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run_id(&latch_job(&sandbox, "a", &latch).run());
    latch.keeps(1);
    let runs: Vec<_> = (0..5).map(|_| sandbox.queued("a", &noted(""))).collect();
    sandbox.waits_for_lock("a.lock", 1);
    let pids: Vec<_> = runs.iter().map(|run| sandbox.process_of(run).expect("it waits")).collect();
    // One in the middle, then the one that sleeps for the lock.
    for middle in [2, 0] {
        sandbox.queue(["cancel", &runs[middle]]).run().exits(0);
        eventually("its process is gone", || !is_alive(pids[middle]));
        assert_eq!(sandbox.order(), Vec::<u64>::new());
        let finished = sandbox.ends(&runs[middle], 125);
        assert!(one_line(&finished).contains("cancelled"), "{finished:?}");
    }
    sandbox.waits_for_lock("a.lock", 1);
    for (run, word) in [(&first, "runs already"), (&runs[0], "over")] {
        let refused = sandbox.queue(["cancel", run]).run();
        refused.exits(4);
        assert!(one_line(&refused).contains(word), "{refused:?}");
    }
    latch.open();
    sandbox.ends(&runs[4], 0);
    assert_eq!(sandbox.order(), [&runs[1], &runs[3], &runs[4]].map(|run| number(run)));
    sandbox.queue(["cancel", &runs[4]]).run().exits(4);
    let fates = sandbox.fates("a");
    assert_eq!(fates.values().filter(|fate| *fate == "cancelled").count(), 2, "{fates:?}");
}

#[test]
fn all_that_waits_in_a_lane_is_cancelled_and_what_runs_goes_on() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run_id(&latch_job(&sandbox, "a", &latch).run());
    latch.keeps(1);
    let runs: Vec<_> = (0..6).map(|_| sandbox.queued("a", &noted(""))).collect();
    // One that has no process is taken out as well.
    sandbox.kills(&runs[3]);
    let cancelled = sandbox.queue(["cancel", "a"]).run();
    assert_eq!(cancelled.exits(0).stderr.lines().count(), 6, "{cancelled:?}");
    assert_eq!(sandbox.listed("a"), [(first.clone(), "running".to_owned())]);
    latch.open();
    sandbox.ends(&first, 0);
    sandbox.lane_empties("a");
    assert_eq!(sandbox.order(), Vec::<u64>::new());
    sandbox.queue(["resume"]).run().exits(0);
    assert_eq!(sandbox.listed("a"), []);
    assert_eq!(sandbox.fates("a").values().filter(|fate| *fate == "cancelled").count(), 6);
}
