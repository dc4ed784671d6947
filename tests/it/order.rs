//! The order of a booking's system calls, as strace sees it: sync before answer, and one blocking flock to wait.

use std::time::Duration;

use crate::{
    machine,
    sandbox::{Finished, Invocation, Protocol, Sandbox},
    strace::{self, Call},
};

/// Runs it traced.
fn traced(sandbox: &Sandbox, invocation: Invocation) -> (Finished, Vec<Call>) {
    let trace = sandbox.path("trace");
    let finished = invocation.under(strace::tracing(&trace, &[])).run();
    (finished, strace::calls(&trace))
}

fn position(calls: &[Call], what: impl Fn(&Call) -> bool) -> Option<usize> {
    calls.iter().position(|call| call.succeeded() && what(call))
}

fn writes_to(call: &Call, file: &str) -> bool {
    let descriptor = call.text.split(',').next().unwrap_or_default();
    ["write", "pwrite64", "writev", "pwritev"].contains(&&*call.name) && descriptor.contains(file)
}

fn answers(call: &Call) -> bool {
    call.name == "write" && call.text.starts_with("write(1<")
}

/// The answer comes after a sync of the ledger, and that after the line it rests on, if one was written; the state
/// that says so is published in between.
#[track_caller]
fn synced_before_answered(calls: &[Call], appends: bool) {
    let answer = position(calls, answers).unwrap_or_else(|| panic!("no answer: {calls:#?}"));
    let append = position(calls, |call| writes_to(call, ".jsonl>"));
    assert_eq!(append.is_some(), appends, "{calls:#?}");
    let sync = position(calls, |call| call.is("fdatasync", ".jsonl>"))
        .unwrap_or_else(|| panic!("answered without a sync: {calls:#?}"));
    let publish = position(calls, |call| call.name.starts_with("rename") && call.text.contains(".json\""))
        .unwrap_or_else(|| panic!("answered without publishing the state: {calls:#?}"));
    assert!(append < Some(sync), "synced before the line was written: {calls:#?}");
    assert!(sync < publish, "the state was ahead of the disk: {calls:#?}");
    assert!(publish < answer, "answered before the state was published: {calls:#?}");
}

#[test]
fn no_answer_is_written_before_its_sync_succeeded() {
    if !machine::may_trace("sync before answer") {
        return;
    }
    for protocol in [Protocol::TwoLocks, Protocol::OneLock] {
        let sandbox = Sandbox::new().with_protocol(protocol).trip("1", 2);
        let (booked, calls) = traced(&sandbox, sandbox.book("1", "7"));
        booked.succeeds();
        synced_before_answered(&calls, true);
        let (cancelled, calls) = traced(&sandbox, sandbox.cancel("1", "7"));
        cancelled.succeeds();
        synced_before_answered(&calls, true);
        // A refusal that has an id is in the ledger, and so an answer like any other.
        let (refused, calls) = traced(&sandbox, sandbox.book("1", "8").seats(3).request("too-many"));
        assert_eq!(refused.refused(3).outcome, "sold_out");
        synced_before_answered(&calls, true);
        let batch = sandbox.triplock(["book", "1", "--batch", "-"]).stdin("{\"student\":\"1\"}\n{\"student\":\"2\"}\n");
        let (batch, calls) = traced(&sandbox, batch);
        batch.exits(0);
        synced_before_answered(&calls, true);
    }
}

#[test]
fn a_refusal_waits_until_what_it_rests_on_is_on_disk() {
    if !machine::may_trace("a refusal rests on what is on disk") {
        return;
    }
    for protocol in [Protocol::TwoLocks, Protocol::OneLock] {
        let sandbox = Sandbox::new().with_protocol(protocol).trip("1", 1);
        // Its line is in the ledger, and it dies before it can sync it.
        let kill = strace::tracing(&sandbox.path("killed"), &["-e", "inject=fdatasync:signal=KILL:when=1"]);
        assert_eq!(sandbox.book("1", "7").under(kill).run().code(), None);
        let (refused, calls) = traced(&sandbox, sandbox.book("1", "8"));
        assert_eq!(refused.refused(3).outcome, "sold_out");
        let answer = position(&calls, answers).expect("it answered");
        let sync = position(&calls, |call| call.name.ends_with("sync") && call.text.contains("/trips/1."))
            .unwrap_or_else(|| panic!("refused because of a booking that a power cut would undo: {calls:#?}"));
        assert!(sync < answer, "{calls:#?}");
    }
}

#[test]
fn a_timed_wait_ends_in_time() {
    let sandbox = Sandbox::alone().trip("1", 1);
    let lock = sandbox.hold_lock("1.lock");
    for _ in 0..5 {
        let finished = sandbox.book("1", "7").wait("0.3").run();
        let error = finished.fails(75);
        assert_eq!(error["error"], "busy");
        let allowed = Duration::from_millis(300)..Duration::from_millis(600);
        if !allowed.contains(&finished.took) {
            finished.complain(&format!("expected 0.3 to 0.6 s, took {:?}", finished.took));
        }
    }
    let at_once = sandbox.book("1", "7").arg("-n").run();
    at_once.fails(75);
    assert!(at_once.took < Duration::from_millis(200), "-n waited: {:?}", at_once.took);
    drop(lock);
    assert_eq!(sandbox.book("1", "7").wait("0.3").succeeds().seats_left, Some(0));
}

#[test]
fn a_timed_wait_is_one_blocking_flock() {
    if !machine::may_trace("one blocking flock") {
        return;
    }
    let sandbox = Sandbox::new().trip("1", 1);
    let lock = sandbox.hold_lock("1.lock");
    let (finished, calls) = traced(&sandbox, sandbox.book("1", "7").wait("0.3"));
    finished.fails(75);
    drop(lock);
    let asks: Vec<_> = calls.iter().filter(|call| call.is("flock", "LOCK_EX")).collect();
    let (tries, waits): (Vec<&Call>, Vec<&Call>) = asks.into_iter().partition(|call| call.text.contains("LOCK_NB"));
    assert_eq!(waits.len(), 1, "{waits:#?}");
    assert!(tries.len() <= 1, "{tries:#?}");
    let sleeps = calls.iter().filter(|call| call.name.contains("sleep") || call.name.contains("poll"));
    let sleeps: Vec<_> = sleeps.filter(|call| call.text.contains("POLLIN") || call.name.contains("sleep")).collect();
    assert!(sleeps.is_empty(), "{sleeps:#?}");
}
