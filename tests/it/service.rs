//! What a service manager is told and shown, without one; with one: [`crate::units`].

use rustix::process::Signal;
use serde_json::Value;

use crate::sandbox::{Sandbox, eventually};

#[test]
fn a_run_that_is_ended_on_purpose_exits_as_asked() {
    let sandbox = Sandbox::new();
    let policy = ["--stop-exit-code", "9", "-k", "1"];
    let script = "trap 'exit 3' TERM; echo >started; while :; do sleep 0.01; done";

    let running = sandbox.sh("told", &policy, script).start();
    sandbox.written("started");
    running.signal(Signal::TERM);
    running.finish().exits(9);
    std::fs::remove_file(sandbox.path("started")).expect("remove the mark");

    let running = sandbox.sh("stopped", &policy, script).start();
    sandbox.written("started");
    sandbox.triplock(["stop", "stopped"]).run().exits(0);
    running.finish().exits(9);

    sandbox.pipe("go");
    let holder = sandbox.sh("waits", &[], "read x <go").start();
    eventually("it holds the lock", || sandbox.exists("state/jobs/waits.lock") && sandbox.is_locked("waits.lock"));
    let waiting = sandbox.sh("waits", &["--stop-exit-code", "9", "--policy", "wait"], "true").start();
    sandbox.waits_for_lock("waits.lock", 1);
    waiting.signal(Signal::TERM);
    waiting.finish().exits(9);
    sandbox.open_pipe("go");
    holder.finish().exits(0);

    // Nobody asked for these.
    sandbox.sh("failed", &policy, "exit 3").exits(3);
    sandbox.sh("killed", &policy, "kill -TERM $$").exits(143);
    sandbox.sh("limited", &["--stop-exit-code", "9", "--time-limit", "0.1"], "sleep 20").exits(124);
    let outcomes = ["told", "stopped", "failed", "killed", "limited"].map(|job| sandbox.outcomes(job).concat());
    assert_eq!(outcomes, ["stopped", "stopped", "failed", "failed", "timed_out"]);
    assert_eq!(sandbox.outcomes("waits"), ["interrupted", "succeeded"]);
}

#[test]
fn only_the_very_stream_of_the_journal_gets_priorities() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("stream"), "").expect("make a file");
    let said = |stream: &str, script: &str| {
        // One file stands for the journal's stream, and stderr is it or is another.
        let script = format!("JOURNAL_STREAM={stream}; export JOURNAL_STREAM; {script}");
        let run = sandbox.triplock(["run", "x", "--output", "capture", "--", "false"]).for_people();
        run.under(["sh", "-c", &script]).in_directory(sandbox.path("")).run().exits(1);
        std::fs::read_to_string(sandbox.path("said")).expect("read what it said")
    };
    let run = "\"$0\" \"$@\" 2>said";
    let own = "$(: >said; stat -c %d:%i said)";
    let line = said(own, run);
    assert!(line.starts_with("<3>triplock: x: run 1 failed"), "{line}");
    for other in ["$(: >said; stat -c %d:%i stream)", "", "1:2:3", "$(stat -c %d said):$(stat -c %i stream)"] {
        assert!(said(other, run).starts_with("triplock: x: run"), "{other}");
    }
}

#[test]
fn the_ledger_keeps_the_id_that_a_service_manager_gave() {
    let sandbox = Sandbox::new();
    let id = "0123456789abcdef0123456789abcdef";
    let with = |id: &str| {
        sandbox.run("x", &[], &["true"]).under(["env", &format!("INVOCATION_ID={id}")]).exits(0);
        sandbox.events("x", "started").pop().expect("it has started")["invocation_id"].clone()
    };
    assert_eq!(with(id), id);
    for other in ["", "x", &id[1..], &format!("{id}0"), &id.to_uppercase(), "0123456789abcdef0123456789abcde\u{e9}"] {
        assert_eq!(with(other), Value::Null, "{other}");
    }
    let history = sandbox.triplock(["history", "x"]).run();
    let runs: Vec<Value> =
        history.exits(0).stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(runs[0]["invocation_id"], id);
    assert!(runs[1].get("invocation_id").is_none(), "{}", runs[1]);
}
