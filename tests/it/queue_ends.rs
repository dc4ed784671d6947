//! How queued runs end, what tells that, and running them again.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use serde_json::Value;

use crate::{
    lanes::{noted, number, run_id},
    latch::Latch,
    queue::latch_job,
    sandbox::{Sandbox, TRIPLOCK, eventually},
};

#[test]
fn wait_exits_as_the_run_did() {
    let sandbox = Sandbox::new();
    sandbox.queue(["pause", "a"]).run().exits(0);
    let vanishes = sandbox.path("vanishes");
    fs::write(&vanishes, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&vanishes, fs::Permissions::from_mode(0o755)).unwrap();
    let forbidden = sandbox.path("forbidden");
    fs::write(&forbidden, "no program").unwrap();
    let add = |options: &[&str], words: &[&str]| {
        let words = ["add", "a"].into_iter().chain(options.iter().copied()).chain(["--"]).chain(words.iter().copied());
        run_id(&sandbox.queue(words.collect::<Vec<_>>()).run())
    };
    let sh = |script| add(&[], &["sh", "-c", script]);
    let expected = [
        (sh("exit 0"), 0, "succeeded"),
        (sh("exit 7"), 7, "failed"),
        (sh("kill -9 $$"), 137, "failed"),
        (sh("kill -TERM $$"), 143, "failed"),
        (add(&["--time-limit", "0.1"], &["sleep", "60"]), 124, "timed_out"),
        (add(&[], &[forbidden.to_str().unwrap()]), 126, "failed"),
        (add(&[], &["/does/not/exist"]), 127, "failed"),
        (add(&[], &[vanishes.to_str().unwrap()]), 127, "failed"),
        (add(&["--ok-exit", "5"], &["sh", "-c", "exit 5"]), 5, "succeeded"),
    ];
    fs::remove_file(&vanishes).unwrap();
    sandbox.queue(["resume", "a"]).run().exits(0);
    for (run, code, outcome) in &expected {
        let finished = sandbox.ends(run, *code);
        let is_silent =
            finished.stdout.is_empty() && finished.stderr.lines().count() == usize::from(*outcome != "succeeded");
        assert!(is_silent, "{finished:?}");
        let finished = sandbox.triplock(["queue", "wait", run]).run();
        let view: Value = serde_json::from_str(&finished.exits(*code).stdout).expect("JSON");
        let said = view["outcome"].as_str().unwrap();
        assert!(said == *outcome || (*outcome == "failed" && *code > 125), "{run} {said}");
        assert_eq!((&view["job"], view["run"].as_u64()), (&"a".into(), Some(number(run))));
    }
    // Of several the first that is not 0, and each is told.
    let [well, badly, killed] = [0, 1, 2].map(|at| expected[at].0.as_str());
    let several = sandbox.triplock(["queue", "wait", well, killed, badly]).run();
    assert_eq!(several.exits(137).stdout.lines().count(), 3, "{several:?}");
    sandbox.queue(["wait", well, well]).run().exits(0);
}

#[test]
fn a_lane_is_waited_for_with_all_that_stands_there_now() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "a", &latch).run().exits(0);
    latch.keeps(1);
    let runs = ["exit 0", "exit 4", "exit 5"].map(|script| sandbox.queued("a", script));
    let waiter = sandbox.triplock(["queue", "wait", "a"]).start();
    let inode = fs::metadata(sandbox.lane_file("a")).unwrap().ino();
    eventually("it waits for the first", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("-> OFDLCK") && line.ends_with(&format!(":{inode} 1 1")))
    });
    latch.open();
    let finished = waiter.finish();
    assert_eq!(finished.exits(4).stdout.lines().count(), 4, "{finished:?}");
    sandbox.ends(&runs[2], 5);
    sandbox.queue(["wait", "a"]).run().exits(0);
}

#[test]
fn as_many_run_at_once_as_there_are_slots_and_start_in_order() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let script = latch.after("echo $TRIPLOCK_RUN_ID >>order;");
    let add = || {
        let add = sandbox.queue(["add", "a", "--slots", "3", "--"]);
        run_id(&script.iter().fold(add, crate::sandbox::Invocation::arg).run())
    };
    let runs: Vec<_> = (0..9).map(|_| add()).collect();
    latch.keeps(3);
    assert_eq!(sandbox.order().len(), 3);
    let states: Vec<_> = sandbox.listed("a").into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, [vec!["running"; 3], vec!["waiting"; 6]].concat());
    latch.open();
    for run in &runs {
        sandbox.ends(run, 0);
    }
    assert_eq!(sandbox.starts("a"), (1..=9).collect::<Vec<_>>());
    assert_eq!(sandbox.order().len(), 9);
}

#[test]
fn queued_runs_of_two_lanes_share_a_named_lock() {
    let sandbox = Sandbox::new();
    let runs: Vec<_> = (0..20)
        .map(|turn| {
            sandbox.queued_with(
                ["a", "b"][turn % 2],
                &["--lock", "db"],
                "exec 9>>busy; flock -n 9 || echo overlap >>order",
            )
        })
        .collect();
    for run in &runs {
        sandbox.ends(run, 0);
    }
    assert_eq!(sandbox.order(), Vec::<u64>::new());
}

#[test]
fn a_queued_run_is_retried_logged_and_shown_like_any_other() {
    let sandbox = Sandbox::new();
    let script = "echo attempt $TRIPLOCK_ATTEMPT of $TRIPLOCK_RUN_ID; [ $TRIPLOCK_ATTEMPT = 2 ]";
    let run = sandbox.queued_with("a", &["--retries", "3", "--retry-delay", "0"], script);
    sandbox.ends(&run, 0);
    let other = sandbox.queued("a", "echo other; exit 3");
    sandbox.ends(&other, 3);
    let logged = |number: &str| sandbox.triplock(["logs", "a", number]).for_people().run().exits(0).stdout.clone();
    assert!(logged("1").contains("attempt 1 of 1\n") && logged("1").contains("attempt 2 of 1\n"), "{}", logged("1"));
    assert_eq!(logged("2"), "other\n");
    let history = sandbox.triplock(["history", "a"]).run();
    let shown: Vec<Value> =
        history.exits(0).stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown.iter().all(|run| run["queued"].is_string()), "{shown:?}");
    let status = sandbox.triplock(["status", "a"]).for_people().run();
    assert!(status.exits(0).stdout.contains("failed"), "{status:?}");
}

#[test]
fn stop_ends_what_runs_in_a_lane_and_lets_the_next_one_go() {
    let sandbox = Sandbox::new();
    let first = sandbox.queued("a", "echo x >started; exec sleep 60");
    sandbox.written("started");
    let next = sandbox.queued("a", &noted(""));
    sandbox.triplock(["stop", "a"]).for_people().run().exits(0);
    sandbox.ends(&next, 0);
    let stopped = sandbox.ends(&first, 143);
    assert!(stopped.stderr.contains("stopped"), "{stopped:?}");
    assert_eq!(sandbox.order(), [number(&next)]);
}

#[test]
fn retry_runs_again_what_failed_was_cancelled_or_lost() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("there");
    fs::create_dir(&directory).unwrap();
    let script = "pwd >>out; echo $KIND >>out; [ -e ../well ]";
    let add = |kind: &str| {
        let add = sandbox.queue(["add", "a", "--", "sh", "-c", script]).in_directory(&directory).env("KIND", kind);
        run_id(&add.run())
    };
    let retry = |run: &str| run_id(&sandbox.queue(["retry", run]).in_directory("/").env("KIND", "none").run());
    let failed = add("failed");
    sandbox.ends(&failed, 1);
    let latch = Latch::closed(&sandbox, "latch");
    let lost = run_id(&latch_job(&sandbox, "a", &latch).run());
    latch.keeps(1);
    let cancelled = add("cancelled");
    let follows = run_id(
        &sandbox
            .queue(["add", "a", "--after", &failed, "--", "sh", "-c", script])
            .in_directory(&directory)
            .env("KIND", "follows")
            .run(),
    );
    for run in [&lost, &follows] {
        let refused = sandbox.queue(["retry", run]).run();
        assert!(refused.exits(4).stderr.contains("not over yet"), "{refused:?}");
    }
    sandbox.queue(["cancel", &cancelled]).run().exits(0);
    sandbox.kills(&lost);
    latch.open();
    sandbox.ends(&lost, 125);
    sandbox.ends(&follows, 125);
    fs::write(sandbox.path("well"), "").unwrap();
    fs::remove_file(directory.join("out")).unwrap();
    for run in [&failed, &cancelled, &follows, &lost] {
        let again = retry(run);
        assert!(number(&again) > number(&follows));
        sandbox.ends(&again, 0);
    }
    let here = directory.display();
    let expected = format!("{here}\nfailed\n{here}\ncancelled\n{here}\nfollows\n");
    assert_eq!(fs::read_to_string(directory.join("out")).unwrap(), expected);
    // The old ones are as they were.
    sandbox.ends(&failed, 1);
    sandbox.ends(&cancelled, 125);
}

/// What its command has started may go on; then it is that which keeps the lane.
#[test]
fn a_run_whose_runner_was_killed_is_over_when_its_command_is() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run_id(&latch_job(&sandbox, "a", &latch).run());
    latch.keeps(1);
    let next = sandbox.queued("a", &noted(""));
    let follows = sandbox.queued_with("b", &["--after", &first], &noted(""));
    sandbox.kills(&first);
    let waiter = sandbox.queue(["wait", &first]).start();
    assert_eq!(sandbox.stands(&first).as_deref(), Some("running"));
    assert_eq!(sandbox.order(), Vec::<u64>::new());
    latch.open();
    assert!(waiter.finish().exits(125).stderr.contains("lost"));
    sandbox.ends(&next, 0);
    let finished = sandbox.ends(&follows, 125);
    assert!(finished.stderr.contains("lost"), "{finished:?}");
    assert_eq!(sandbox.fates("a")[&number(&first)], "lost");
}

/// Whoever clears away logs does not ask who waits.
#[test]
fn a_run_has_its_log_though_the_logs_were_removed_while_it_waited() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "a", &latch).run().exits(0);
    latch.keeps(1);
    let run = sandbox.queued("a", "echo hello");
    fs::remove_dir_all(sandbox.jobs("a.logs")).unwrap();
    latch.open();
    sandbox.ends(&run, 0);
    assert_eq!(sandbox.triplock(["logs", &run]).for_people().run().exits(0).stdout, "hello\n");
}

#[test]
fn the_wait_of_a_run_counts_from_when_it_was_queued_whichever_process_it_has() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "a", &latch).run().exits(0);
    latch.keeps(1);
    let run = sandbox.queued("a", "true");
    let queued = std::time::Instant::now();
    sandbox.kills(&run);
    eventually("it has no process", || sandbox.stands(&run).as_deref() == Some("stranded"));
    std::thread::sleep(std::time::Duration::from_millis(300));
    sandbox.queue(["resume", "a"]).run().exits(0);
    let waited = queued.elapsed().as_secs_f64();
    assert_eq!(sandbox.stands(&run).as_deref(), Some("waiting"));
    latch.open();
    let finished = sandbox.triplock(["queue", "wait", &run]).run();
    let view: Value = serde_json::from_str(&finished.exits(0).stdout).expect("JSON");
    assert!(view["wait"].as_f64().unwrap() >= waited, "{view} {waited}");
}

/// Whoever looks at the command, or watches the directory, finds its log by its name.
#[test]
fn the_output_of_a_run_is_the_log_by_its_name() {
    let sandbox = Sandbox::new();
    for number in 1..=2 {
        let run = sandbox.queued("a", "readlink /proc/self/fd/1; readlink /proc/self/fd/2 >&2");
        sandbox.ends(&run, 0);
        let log = sandbox.jobs(&format!("a.logs/{number}.log"));
        assert_eq!(fs::read_to_string(&log).unwrap(), format!("{}\n", log.display()).repeat(2));
    }
}

/// While one that is about to start has noted a fence that the other slot's run has.
#[test]
fn a_run_of_one_slot_is_not_taken_for_one_of_all() {
    let sandbox = Sandbox::new();
    let ask = format!("{TRIPLOCK} --state-dir '{}' run a -n --slots 2 -- true", sandbox.state_dir().display());
    let script =
        format!("{ask}; code=$?; [ $code = 0 ] || [ $code = 75 ] || echo $code >>'{}'", sandbox.path("odd").display());
    sandbox.queue(["pause", "a"]).run().exits(0);
    let runs: Vec<_> = (0..60).map(|_| sandbox.queued_with("a", &["--slots", "2"], &script)).collect();
    sandbox.queue(["resume", "a"]).run().exits(0);
    for run in &runs {
        sandbox.ends(run, 0);
    }
    assert!(!sandbox.path("odd").exists(), "{}", fs::read_to_string(sandbox.path("odd")).unwrap_or_default());
}
