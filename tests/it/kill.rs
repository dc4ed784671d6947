//! kill -9: at random moments under load, and at every system call that touches a file, inside healing too.

use std::{
    os::unix::process::ExitStatusExt as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    ledger, machine,
    sandbox::{Answer, Protocol, Sandbox},
    strace,
};

const WORKERS: usize = 8;

/// Books for so many students, killing half of the processes; a student whose process gave no answer asks again with
/// the same request id.
fn kills(protocol: Protocol, bookings: usize) {
    let sandbox = Sandbox::new().with_protocol(protocol).trip("1", 1_000_000);
    let next = AtomicUsize::new(0);
    let killed = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let student = next.fetch_add(1, Ordering::Relaxed);
                    if student >= bookings {
                        return;
                    }
                    let (mut given, deaths) = book_until_answered(&sandbox, student);
                    killed.fetch_add(deaths, Ordering::Relaxed);
                    answers.lock().unwrap().append(&mut given);
                }
            });
        }
    });
    // The next command just works, and leaves nothing behind.
    let mut answers = answers.into_inner().unwrap();
    answers.push(sandbox.book("1", "last").request("last").succeeds());
    sandbox.has_no_litter();
    let ledger = ledger::judge(sandbox.state_dir(), "1");
    ledger.holds(&answers);
    assert_eq!(ledger.bookings.len(), bookings + 1);
    assert_eq!(ledger.sum().seats_left, 1_000_000 - bookings as u64 - 1);
    let killed = killed.into_inner();
    assert!(killed > bookings / 10, "only {killed} processes were killed: these were no random moments");
    println!("{bookings} bookings, {killed} processes killed, {} answers", answers.len());
}

/// All answers that came, and how many processes died without one.
fn book_until_answered(sandbox: &Sandbox, student: usize) -> (Vec<Answer>, usize) {
    let id = format!("request-{student}");
    let mut answers = Vec::new();
    let mut deaths = 0;
    loop {
        let running = sandbox.book("1", &student.to_string()).wait("60").request(&id).start();
        // Patience for at most 20 deaths: everybody gets a seat in the end.
        if deaths < 20 && fastrand::bool() {
            std::thread::sleep(Duration::from_micros(fastrand::u64(0..4000)));
            running.kill();
        }
        let finished = running.finish();
        answers.extend(finished.answer());
        if finished.status.signal().is_none() {
            finished.succeeds();
            return (answers, deaths);
        }
        deaths += 1;
    }
}

#[test]
fn nothing_is_lost_or_doubled_by_kills_during_3000_bookings() {
    kills(Protocol::TwoLocks, 3000);
}

#[test]
fn nothing_is_lost_or_doubled_by_kills_with_one_lock() {
    kills(Protocol::OneLock, 600);
}

/// Kills one process at each of its calls that touch files; after each, the retry is answered and nothing is missing.
/// `prepare` makes the situation in which the process runs.
fn kill_at_every_call(test: &str, protocol: Protocol, prepare: impl Fn(&Sandbox)) {
    if !machine::may_trace(test) {
        return;
    }
    let fresh = || {
        let sandbox = Sandbox::new().with_protocol(protocol).trip("1", 100);
        let answers: Vec<_> =
            ["1", "2", "3"].map(|student| sandbox.book("1", student).request(student).succeeds()).into();
        prepare(&sandbox);
        (sandbox, answers)
    };
    let (sandbox, _) = fresh();
    let trace = sandbox.path("trace");
    sandbox.book("1", "7").request("7").under(strace::tracing(&trace, &[])).succeeds();
    let calls: Vec<_> = strace::calls(&trace).into_iter().filter(strace::Call::touches_files).collect();
    assert!(calls.len() > 5, "a booking touches files more often than {} times", calls.len());
    for call in calls {
        let (sandbox, mut answers) = fresh();
        let inject = format!("inject={}:signal=KILL:when={}", call.name, call.nth);
        let finished =
            sandbox.book("1", "7").request("7").under(strace::tracing(&sandbox.path("trace"), &["-e", &inject])).run();
        if finished.status.signal().is_none() {
            finished.complain(&format!("it was to be killed at {}", call.text));
        }
        answers.extend(finished.answer());
        answers.push(sandbox.book("1", "8").succeeds());
        let again = sandbox.book("1", "7").request("7").succeeds();
        assert_eq!(again.outcome, "booked");
        answers.push(again);
        sandbox.has_no_litter();
        let ledger = ledger::judge(sandbox.state_dir(), "1");
        ledger.holds(&answers);
        assert_eq!(ledger.bookings.len(), 5, "killed at {}", call.text);
    }
}

#[test]
fn a_kill_at_any_call_of_a_booking_does_no_harm() {
    kill_at_every_call("kill at any call of a booking", Protocol::TwoLocks, |_| {});
}

#[test]
fn a_kill_at_any_call_of_a_booking_does_no_harm_with_one_lock() {
    kill_at_every_call("kill at any call of a booking, one lock", Protocol::OneLock, |_| {});
}

#[test]
fn a_kill_at_any_call_of_healing_does_no_harm() {
    kill_at_every_call("kill at any call of healing", Protocol::TwoLocks, |sandbox| {
        let path = sandbox.trips("1.jsonl");
        let mut bytes = std::fs::read(&path).unwrap();
        // What a power cut leaves: the room of a line, and nothing in it.
        bytes.extend([0; 100]);
        std::fs::write(&path, bytes).unwrap();
    });
}
