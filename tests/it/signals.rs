//! TERM, INT and HUP: before anything is appended they end a waiter, from then on they wait for the answer.

use std::{ffi::OsString, os::unix::process::ExitStatusExt as _};

use rustix::process::Signal;

use crate::{
    machine,
    sandbox::{Sandbox, eventually, waiters},
    strace,
};

#[test]
fn a_waiter_that_is_asked_to_end_ends_and_has_booked_nothing() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let sandbox = Sandbox::new().trip("1", 1);
        let lock = sandbox.hold_lock("1.lock");
        let waiting = sandbox.book("1", "7").wait("60").start();
        eventually("it waits", || waiters(&lock) == 1);
        waiting.signal(signal);
        let finished = waiting.finish();
        assert_eq!(finished.status.signal(), Some(signal.as_raw()), "{finished:?}");
        drop(lock);
        sandbox.show("1").shows_seats_left(1);
    }
}

/// Behind the append the syncer's lock may have to be waited for. A signal ends that wait too, and then nobody knows.
#[test]
fn a_signal_while_the_outcome_is_open_says_so() {
    let sandbox = Sandbox::new().trip("1", 1);
    let sync = sandbox.hold_lock("1.sync");
    let waiting = sandbox.book("1", "7").start();
    eventually("it waits for the syncer", || waiters(&sync) == 1);
    waiting.signal(Signal::TERM);
    let error = waiting.finish().fails(74);
    drop(sync);
    let retried = sandbox.book("1", "7").request(error["request_id"].as_str().unwrap()).succeeds();
    assert_eq!((retried.outcome.as_str(), retried.replayed), ("booked", true));
}

#[test]
fn an_ignored_signal_stays_ignored() {
    for file in ["1.lock", "1.sync"] {
        let sandbox = Sandbox::new().trip("1", 1);
        let lock = sandbox.hold_lock(file);
        let nohup = ["sh", "-c", "trap '' TERM; exec \"$0\" \"$@\""];
        let waiting = sandbox.book("1", "7").under(nohup).start();
        eventually("it waits", || waiters(&lock) == 1);
        waiting.signal(Signal::TERM);
        // It would be gone soon, and never come back. (One look may miss it: the kernel lists locks while they change.)
        std::thread::sleep(std::time::Duration::from_millis(100));
        eventually("it still waits", || waiters(&lock) == 1);
        drop(lock);
        waiting.finish().succeeds();
    }
}

/// Signals itself in the middle: at the sync, when the line is in the ledger.
#[test]
fn a_signal_after_the_append_waits_for_the_answer() {
    let test = "signals::a_signal_after_the_append_waits_for_the_answer";
    if !machine::may_trace(test) {
        return;
    }
    for signal in ["TERM", "INT", "HUP"] {
        let sandbox = Sandbox::new().trip("1", 1);
        let inject: OsString = format!("inject=fdatasync:signal={signal}:when=1").into();
        let trace = strace::tracing(&sandbox.path("trace"), &["-e", inject.to_str().unwrap()]);
        assert_eq!(sandbox.book("1", "7").under(trace).succeeds().outcome, "booked");
    }
}

/// A retry of a request that was answered, and one whose process was killed, both while a sync has to be repeated.
#[test]
fn an_answer_given_again_says_so_also_after_healing() {
    let test = "signals::an_answer_given_again_says_so_also_after_healing";
    if !machine::may_trace(test) {
        return;
    }
    let sandbox = Sandbox::new().trip("1", 10);
    assert!(!sandbox.book("1", "a").request("a").succeeds().replayed);
    let trace = strace::tracing(&sandbox.path("trace"), &["-e", "inject=fdatasync:signal=KILL:when=1"]);
    assert_eq!(sandbox.book("1", "b").under(trace).run().status.signal(), Some(Signal::KILL.as_raw()));
    assert!(sandbox.book("1", "a").request("a").succeeds().replayed);
}
