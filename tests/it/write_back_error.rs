//! A disk that fails at write-back: the kernel reports that once, to one process, and forgets it. No answer may rest
//! on a sync that failed, nor on the next one, which succeeds though the bytes never reached the disk.

use std::{
    os::unix::process::ExitStatusExt as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    ledger::{self, Ledger},
    machine,
    mount::DyingDisk,
    sandbox::{Answer, Finished, Invocation, Protocol, Sandbox},
    strace,
};

fn may_use_a_dying_disk(test: &str) -> bool {
    machine::may_mount(test) && machine::has(test, &["mkfs.ext4", "fstrim"])
}

/// Books one student after the other in 8 processes at once, until so many failed; what was answered, and the ids of
/// those who got no answer.
fn book_until_failures(sandbox: &Sandbox, round: usize, failures: usize) -> (Vec<Answer>, Vec<String>) {
    let answers = Mutex::new(Vec::new());
    let unanswered = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while unanswered.lock().unwrap().len() < failures {
                    let student = format!("{round}-{}", next.fetch_add(1, Ordering::Relaxed));
                    let finished = sandbox.book("1", &student).wait("60").request(&student).run();
                    if finished.code() == Some(0) {
                        answers.lock().unwrap().push(finished.succeeds());
                        continue;
                    }
                    if !finished.stdout.is_empty() || finished.stderr.lines().count() != 1 {
                        finished.complain("expected no answer and one line on stderr");
                    }
                    if !matches!(finished.code(), Some(71 | 73 | 74)) {
                        finished.complain("expected 71, 73 or 74");
                    }
                    unanswered.lock().unwrap().push(student);
                }
            });
        }
    });
    (answers.into_inner().unwrap(), unanswered.into_inner().unwrap())
}

fn nothing_is_lost_on_a_dying_disk(protocol: Protocol) {
    let test = "bookings on a dying disk";
    if !may_use_a_dying_disk(test) {
        return;
    }
    let mut disk = DyingDisk::new();
    let sandbox = Sandbox::new().with_state(disk.point().join("state")).with_protocol(protocol).trip("1", 1_000_000);
    let mut answers = Vec::new();
    for round in 0..3 {
        answers.push(sandbox.book("1", &format!("healthy-{round}")).succeeds());
        disk.fail();
        let (given, unanswered) = book_until_failures(&sandbox, round, 20);
        answers.extend(given);
        disk.recover();
        // Half of those without an answer ask again at once, the others when only the disk remembers.
        let (soon, late) = unanswered.split_at(unanswered.len() / 2);
        answers.extend(soon.iter().map(|id| sandbox.book("1", id).request(id).succeeds()));
        disk.remount();
        answers.extend(late.iter().map(|id| sandbox.book("1", id).request(id).succeeds()));
        sandbox.has_no_litter();
        ledger::judge(sandbox.state_dir(), "1").holds(&answers);
    }
    println!("{} answers", answers.len());
}

#[test]
fn nothing_answered_is_lost_on_a_dying_disk() {
    nothing_is_lost_on_a_dying_disk(Protocol::TwoLocks);
}

#[test]
fn nothing_answered_is_lost_on_a_dying_disk_with_one_lock() {
    nothing_is_lost_on_a_dying_disk(Protocol::OneLock);
}

/// A batch that is long enough to leave pages of the ledger behind that no later line touches.
fn long_batch(sandbox: &Sandbox) -> Invocation {
    let line = |n| format!("{{\"student\":\"batch-{n}\",\"request_id\":\"b{n}\"}}\n");
    let lines = (0..100).map(line).collect::<Vec<_>>().concat();
    sandbox.triplock(["book", "1", "--batch", "-"]).stdin(lines)
}

/// The options that kill a long batch at its first call after its first sync.
fn kill_after_first_sync(protocol: Protocol) -> String {
    let sandbox = Sandbox::new().with_protocol(protocol).trip("1", 1_000_000);
    let trace = sandbox.path("trace");
    // On a healthy disk, with a sync that only claims to fail, to learn what comes after it.
    long_batch(&sandbox).under(strace::tracing(&trace, &["-e", "inject=fdatasync:error=EIO:when=1"])).run().exits(0);
    let calls = strace::calls(&trace);
    let failed = calls.iter().position(|call| call.name == "fdatasync").expect("a batch syncs");
    let next = &calls[failed + 1];
    format!("inject={}:signal=KILL:when={}", next.name, next.nth)
}

fn the_next_one_heals(protocol: Protocol) {
    let test = "a kill after a write-back error was consumed";
    if !may_use_a_dying_disk(test) || !machine::may_trace(test) {
        return;
    }
    let kill = kill_after_first_sync(protocol);
    let mut disk = DyingDisk::new();
    let sandbox = Sandbox::new().with_state(disk.point().join("state")).with_protocol(protocol).trip("1", 1_000_000);
    let mut answers = vec![sandbox.book("1", "before").succeeds()];
    let generation = Ledger::read(sandbox.state_dir(), "1").generation;
    let trace = sandbox.path("trace");
    disk.fail();
    let finished = long_batch(&sandbox).under(strace::tracing(&trace, &["-e", &kill])).run();
    if finished.status.signal().is_none() || !finished.stdout.is_empty() {
        finished.complain("it was to be killed without an answer");
    }
    let calls: Vec<_> = strace::calls(&trace).into_iter().filter(strace::Call::touches_files).collect();
    // Below is a full tmpfs, so the error's name is ENOSPC; what matters is that write-back failed.
    let consumed = calls.iter().any(|call| call.is("fdatasync", ".jsonl") && !call.succeeded());
    assert!(consumed, "the disk was to fail: {calls:#?}");
    disk.recover();
    // The kernel has forgotten the error; nobody who comes now is told of it.
    answers.push(sandbox.book("1", "after").succeeds());
    assert!(Ledger::read(sandbox.state_dir(), "1").generation > generation, "nobody healed");
    disk.remount();
    answers.push(sandbox.book("1", "later").succeeds());
    let ledger = ledger::judge(sandbox.state_dir(), "1");
    ledger.holds(&answers);
    // The batch was not answered: all of it is there, or nothing.
    assert!([3, 103].contains(&ledger.bookings.len()), "{} bookings", ledger.bookings.len());
    long_batch(&sandbox).run().exits(0);
    assert_eq!(ledger::judge(sandbox.state_dir(), "1").bookings.len(), 103);
    sandbox.has_no_litter();
}

#[test]
fn who_comes_after_a_syncer_that_was_killed_with_an_error_heals() {
    the_next_one_heals(Protocol::TwoLocks);
}

/// Runs a booking whose syncs fail as the expression says, in a sandbox with one booking.
fn with_failing_syncs(protocol: Protocol, inject: &str, check: impl FnOnce(&Sandbox, Finished)) {
    let sandbox = Sandbox::new().with_protocol(protocol).trip("1", 10);
    sandbox.book("1", "1").succeeds();
    let trace = sandbox.path("trace");
    let finished = sandbox.book("1", "7").request("seven").under(strace::tracing(&trace, &["-e", inject])).run();
    let failed = strace::calls(&trace).iter().any(|call| call.text.contains("EIO"));
    assert!(failed, "no sync was made to fail");
    check(&sandbox, finished);
}

#[test]
fn a_failed_sync_is_answered_only_after_healing() {
    if !machine::may_trace("a failed sync") {
        return;
    }
    for protocol in [Protocol::TwoLocks, Protocol::OneLock] {
        with_failing_syncs(protocol, "inject=fdatasync:error=EIO:when=1", |sandbox, finished| {
            let answer = finished.succeeds();
            let ledger = ledger::judge(sandbox.state_dir(), "1");
            assert!(ledger.generation > 1, "{protocol:?}: answered on a failed sync without healing");
            ledger.holds([&answer]);
            assert_eq!(ledger.bookings.len(), 2);
            sandbox.has_no_litter();
        });
    }
}

#[test]
fn no_answer_is_given_while_syncs_fail() {
    if !machine::may_trace("syncs that fail for ever") {
        return;
    }
    for protocol in [Protocol::TwoLocks, Protocol::OneLock] {
        with_failing_syncs(protocol, "inject=fdatasync,fsync:error=EIO:when=1+", |sandbox, finished| {
            let error = finished.fails(74);
            assert_eq!(error["request_id"], "seven", "the error names the id to retry with: {error}");
            let answer = sandbox.book("1", "7").request("seven").succeeds();
            let ledger = ledger::judge(sandbox.state_dir(), "1");
            ledger.holds([&answer]);
            assert!(ledger.generation > 1, "{protocol:?}: nobody healed");
            assert_eq!(ledger.bookings.len(), 2);
            sandbox.has_no_litter();
        });
    }
}
