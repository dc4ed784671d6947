//! `history`: the runs and non-runs of jobs.

use std::fs;

use serde_json::{Value, json};
use triplock::job::{Outcome, Request, RunId};

use crate::{
    ledger_script::{Script, lines},
    machine::may_trace,
    sandbox::{Invocation, Sandbox, eventually, exclusive},
    strace,
};

fn history(sandbox: &Sandbox, args: &[&str]) -> Vec<Value> {
    let finished = sandbox.triplock(["history"].iter().chain(args)).run();
    finished.exits(0);
    lines(&finished.stdout)
}

fn runs(found: &[Value]) -> Vec<u64> {
    found.iter().map(|run| run["run"].as_u64().expect("a run id")).collect()
}

/// The same for people.
fn text(sandbox: &Sandbox, args: &[&str]) -> String {
    let finished = plain(sandbox, args).run();
    finished.exits(0);
    finished.stdout
}

fn plain(sandbox: &Sandbox, args: &[&str]) -> Invocation {
    sandbox.triplock(args).in_text()
}

#[test]
fn a_run_is_one_object_with_all_that_is_known() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "nightly")
        .start(1)
        .later(2)
        .end_of_attempt(1, 1, Outcome::Failed, Some(3), true)
        .later(10)
        .attempt(RunId(1), 2, 1)
        .later(4)
        .end_of_attempt(1, 2, Outcome::Failed, None, false)
        .skip()
        .finish();
    let found = history(&sandbox, &["nightly"]);
    assert_eq!(runs(&found), [1, 2]);
    let run = &found[0];
    for (field, value) in [
        ("job", json!("nightly")),
        ("state", json!("ended")),
        ("outcome", json!("failed")),
        ("exit", Value::Null),
        ("signal", json!(9)),
        ("duration", json!(16.0)),
        ("wait", json!(0.5)),
        ("user", json!(0.5)),
        ("system", json!(0.25)),
        ("peak_memory", json!(2 * 1024 * 1024)),
        ("fence", json!(1)),
        ("slot", json!(1)),
        ("host", json!("testhost")),
        ("pid", json!(std::process::id())),
        ("command", json!("sleep 9")),
    ] {
        assert_eq!(run[field], value, "{field} of {run}");
    }
    assert!(run["start"].is_string() && run["end"].is_string(), "{run}");
    let attempts = run["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 2, "{run}");
    assert_eq!(
        (&attempts[0]["attempt"], &attempts[0]["exit"], &attempts[0]["duration"]),
        (&json!(1), &json!(3), &json!(2.0))
    );
    assert_eq!(
        (&attempts[1]["attempt"], &attempts[1]["signal"], &attempts[1]["duration"]),
        (&json!(2), &json!(9), &json!(4.0))
    );
    let skip = &found[1];
    assert_eq!(
        (&skip["state"], &skip["outcome"], &skip["start"]),
        (&json!("not_run"), &json!("skipped"), &Value::Null)
    );
    assert_eq!(skip["holder"]["pid"], 4711);
    assert!(skip["holder"]["since"].is_string() && skip["end"].is_string(), "{skip}");
}

#[test]
fn the_newest_come_last_and_only_as_many_as_asked_for() {
    let sandbox = Sandbox::new();
    let mut script = Script::new(&sandbox, "a");
    for run in 1..=60 {
        script = script.later(10).start(1).later(1).end(run, Outcome::Succeeded, Some(0));
    }
    script.finish();
    Script::new(&sandbox, "b").later(605).skip().later(4).skip().finish();
    assert_eq!(runs(&history(&sandbox, &["a"])), (11..=60).collect::<Vec<_>>());
    assert_eq!(runs(&history(&sandbox, &["a", "-n", "all"])), (1..=60).collect::<Vec<_>>());
    assert_eq!(runs(&history(&sandbox, &["a", "-n", "2"])), [59, 60]);
    let merged = history(&sandbox, &["-n", "8"]);
    let named: Vec<_> = merged.iter().map(|run| (run["job"].as_str().unwrap(), run["run"].as_u64().unwrap())).collect();
    let expected = [("a", 55), ("b", 1), ("b", 2), ("a", 56), ("a", 57), ("a", 58), ("a", 59), ("a", 60)];
    assert_eq!(named, expected);
}

#[test]
fn slots_that_run_at_once_keep_the_order_of_their_starts() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "many")
        .start(1)
        .later(1)
        .start(2)
        .later(1)
        .skip()
        .end(2, Outcome::Succeeded, Some(0))
        .start(2)
        .later(1)
        .rotate()
        .end(4, Outcome::TimedOut, None)
        .ask_for_end(1, Request::Stop)
        .end(1, Outcome::Stopped, None)
        .finish();
    let found = history(&sandbox, &["many"]);
    assert_eq!(runs(&found), [1, 2, 3, 4]);
    assert_eq!(found[0]["end_requested"], "stop");
    // Run 1 is met in the newer file, and its start in the older.
    assert_eq!(runs(&history(&sandbox, &["many", "-n", "3"])), [2, 3, 4]);
    fs::remove_file(sandbox.state_dir().join("jobs/many.old")).unwrap();
    let found = history(&sandbox, &["many"]);
    assert_eq!(runs(&found), [1, 4]);
    assert!(found.iter().all(|run| run["start"].is_string() && run["state"] == "ended"), "{found:?}");
}

#[test]
fn failures_and_times_can_be_asked_for() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "mixed")
        .start(1)
        .later(600)
        .end(1, Outcome::Failed, Some(1))
        .later(600)
        .start(1)
        .later(600)
        .end(2, Outcome::Succeeded, Some(0))
        .skip()
        .later(600)
        .start(1)
        .later(1)
        .end(4, Outcome::TimedOut, None)
        .finish();
    assert_eq!(runs(&history(&sandbox, &["mixed", "--failed"])), [1, 4]);
    assert_eq!(runs(&history(&sandbox, &["--failed", "-n", "1"])), [4]);
    // The script began 60 minutes ago. Run 2 began before what is asked for, and ended within.
    assert_eq!(runs(&history(&sandbox, &["mixed", "--since", "35m"])), [2, 3, 4]);
    assert_eq!(runs(&history(&sandbox, &["mixed", "--since", "25m"])), [4]);
    assert_eq!(runs(&history(&sandbox, &["mixed", "--since", "1s"])), Vec::<u64>::new());
}

#[test]
fn a_run_whose_lock_is_free_is_lost() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "gone").start(1).later(5).start(2).ask_for_end(2, Request::Replace).finish();
    let found = history(&sandbox, &["gone"]);
    assert_eq!((&found[0]["outcome"], &found[1]["outcome"]), (&json!("lost"), &json!("replaced")));
    assert!(found.iter().all(|run| run["end"].is_null()), "{found:?}");
    assert_eq!(runs(&history(&sandbox, &["gone", "--failed"])), [1]);
}

#[test]
fn a_torn_line_hides_no_other() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "torn").skip().skip().finish();
    let path = sandbox.state_dir().join("jobs/torn.jsonl");
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
    bytes.splice(second..second, *b"{\"format\":1,\"half\n\0\0\0\n");
    fs::write(&path, bytes).unwrap();
    assert_eq!(runs(&history(&sandbox, &["torn"])), [1, 2]);
    let said = plain(&sandbox, &["history", "torn"]).run();
    assert!(
        said.exits(0).stderr.contains("damaged lines passed over, as a crash or a power cut leaves them: 2"),
        "{}",
        said.stderr
    );
}

#[test]
fn people_read_one_aligned_line_a_run() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "nightly").start(1).later(75).end(1, Outcome::Succeeded, Some(0)).skip().finish();
    let shown = text(&sandbox, &["history"]);
    let shown: Vec<_> = shown.lines().collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
    for word in ["JOB", "RUN", "STARTED", "OUTCOME"] {
        assert!(shown[0].contains(word), "{shown:?}");
    }
    for word in ["nightly", "1m 15s", "succeeded", "0.38s", "2.0 MiB"] {
        assert!(shown[1].contains(word), "{word} in {shown:?}");
    }
    let outcome = shown[0].find("OUTCOME").unwrap();
    assert!(shown[1][outcome..].starts_with("succeeded") && shown[2][outcome..].starts_with("skipped"), "{shown:?}");
    assert!(shown[2].contains("held by pid 4711 since 20"), "{shown:?}");
    // What a command line holds does not reach the terminal.
    assert!(!shown[2].contains('\u{1b}'), "{shown:?}");
    assert!(text(&sandbox, &["--color", "always", "history"]).contains("\u{1b}[32msucceeded\u{1b}[0m"));
    assert_eq!(text(&sandbox, &["-q", "history"]), "");
}

#[test]
fn an_unknown_job_is_said_so_with_a_likely_name() {
    let sandbox = Sandbox::new();
    let error = sandbox.triplock(["history", "nightly"]).fails(66);
    assert_eq!(error["error"], "no_such_job");
    assert!(!sandbox.state_dir().exists(), "a look makes nothing");
    Script::new(&sandbox, "nightly").skip().finish();
    let error = sandbox.triplock(["history", "nigthly"]).fails(66);
    assert!(error["message"].as_str().unwrap().contains("did you mean nightly?"), "{error}");
    assert_eq!(error["job"], "nigthly");
    for bad in ["0", "-1", "x"] {
        sandbox.triplock(["history", "-n", bad]).fails(64);
    }
    sandbox.triplock(["history", "--since", "-1"]).fails(64);
}

#[test]
fn a_ledger_of_a_newer_triplock_is_not_guessed_at() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "new").skip().finish();
    let body = "{\"format\":2,\"news\":1";
    let crc = crc32fast::hash(body.as_bytes());
    let line = format!("{body},\"crc\":\"{crc:08x}\"}}\n");
    fs::write(sandbox.state_dir().join("jobs/new.jsonl"), line).unwrap();
    assert_eq!(sandbox.triplock(["history", "new"]).fails(78)["error"], "newer_format");
    // Of all jobs, the others are shown.
    Script::new(&sandbox, "old").skip().finish();
    let finished = sandbox.triplock(["history"]).run();
    assert_eq!(runs(&lines(&finished.exits(78).stdout)), [1]);
}

/// The real thing, from `run` to `history`.
#[test]
fn what_run_did_is_in_the_history() {
    let sandbox = Sandbox::new();
    let run = |args: &[&str]| sandbox.triplock(["run"].iter().chain(args)).in_text().run();
    run(&["job", "--", "true"]).exits(0);
    run(&["job", "--retries", "1", "--retry-delay", "0.01", "--", "sh", "-c", "exit 3"]).exits(3);
    run(&["job", "--time-limit", "0.1", "--", "sleep", "1000"]).exits(124);
    let door = sandbox.path("door");
    let closed = exclusive(&door);
    let runs_now = sandbox.triplock(["run", "job", "--", "flock"]).arg(&door).arg("true").in_text().start();
    let newest = || history(&sandbox, &["job", "-n", "1"]).remove(0);
    eventually("it runs", || newest()["state"] == "running");
    run(&["job", "-n", "--", "true"]).exits(75);
    let found = history(&sandbox, &["job"]);
    assert_eq!(runs(&found), [1, 2, 3, 4, 5]);
    let told: Vec<_> = found.iter().map(|run| run["outcome"].as_str().unwrap_or_default()).collect();
    assert_eq!(told, ["succeeded", "failed", "timed_out", "", "skipped"]);
    assert_eq!(found[1]["attempts"].as_array().map(Vec::len), Some(2), "{}", found[1]);
    assert_eq!((&found[3]["state"], &found[4]["holder"]["pid"]), (&json!("running"), &found[3]["pid"]));
    drop(closed);
    runs_now.finish().exits(0);
    assert_eq!(history(&sandbox, &["job"])[3]["outcome"], "succeeded");
}

/// However many runs there are, no more is read than of a few.
#[test]
fn the_newest_of_many_runs_cost_what_those_of_few_cost() {
    if !may_trace("the_newest_of_many_runs_cost_what_those_of_few_cost") {
        return;
    }
    let sandbox = Sandbox::new();
    let read_by = |args: &[&str]| {
        let trace = sandbox.path("trace");
        sandbox.triplock(args).under(strace::tracing(&trace, &["-e", "trace=pread64"])).run().exits(0);
        let result = |call: strace::Call| call.text.rsplit(' ').next().and_then(|result| result.parse::<u64>().ok());
        strace::calls(&trace).into_iter().filter_map(result).sum::<u64>()
    };
    let mut script = Script::new(&sandbox, "many");
    for run in 1..=2_000 {
        if run == 1_500 {
            script = script.rotate();
        }
        script = script.start(1).end(run, Outcome::Succeeded, Some(0));
    }
    script.finish();
    assert_eq!(runs(&history(&sandbox, &["many", "-n", "1000"])), (1_001..=2_000).collect::<Vec<_>>());
    assert_eq!(runs(&history(&sandbox, &["many", "-n", "all"])).len(), 2_000);
    assert!(read_by(&["history", "many", "-n", "20"]) < 140_000);
    assert!(read_by(&["status", "many"]) < 20_000);
    assert!(read_by(&["history", "many", "-n", "all"]) > 1_000_000, "the trace sees what is read");
}

/// A file that may not grow is what a full disk is to an append: part of it is written, and the rest refused.
#[test]
fn a_line_that_does_not_fit_is_taken_back() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "job").skip().skip().finish();
    let jobs = sandbox.state_dir().join("jobs");
    let ledger = jobs.join("job.jsonl");
    let _held = exclusive(&jobs.join("job.lock"));
    let skipped = || sandbox.triplock(["run", "job", "-n", "--", "true"]).in_text();
    let before = fs::read(&ledger).unwrap();
    // Blocks of 512 bytes; a line has more than that.
    let limit = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", before.len() / 512 + 1);
    let finished = skipped().under(["sh", "-c", &limit, "sh"]).run();
    finished.exits(75);
    assert!(finished.stderr.contains("cannot append to"), "{}", finished.stderr);
    assert_eq!(fs::read(&ledger).unwrap(), before);
    skipped().run().exits(75);
    assert!(fs::read(&ledger).unwrap().starts_with(&before));
    assert_eq!(runs(&history(&sandbox, &["job"])), [1, 2, 3]);
}

#[test]
fn processes_that_record_at_once_lose_nothing_and_share_no_number() {
    let sandbox = Sandbox::new();
    Script::new(&sandbox, "job").finish();
    let _held = exclusive(&sandbox.state_dir().join("jobs/job.lock"));
    let gate = sandbox.gate();
    let start = |_| sandbox.triplock(["run", "job", "-n", "--", "true"]).in_text().through(&gate).start();
    let all: Vec<_> = (0..24).map(start).collect();
    gate.open_for(24);
    for run in all {
        run.finish().exits(75);
    }
    assert_eq!(runs(&history(&sandbox, &["job"])), (1..=24).collect::<Vec<_>>());
}
