//! Many processes, few seats: the number sold is the number there is, at every moment and for every onlooker.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::{
    ledger::{self, Ledger, State},
    sandbox::{Answer, Protocol, Sandbox},
};

const PROCESSES: usize = 64;

/// Books at the same moment, a process for each student; the answers of those who got a seat.
#[track_caller]
fn rush(sandbox: &Sandbox, trip: &str, wait: &str) -> Vec<Answer> {
    let gate = sandbox.gate();
    let running: Vec<_> = (0..PROCESSES)
        .map(|student| sandbox.book(trip, &student.to_string()).wait(wait).through(&gate).start())
        .collect();
    gate.open_for(PROCESSES);
    let mut winners = Vec::new();
    for process in running {
        let finished = process.finish();
        match finished.code() {
            Some(0) => {
                let answer = finished.succeeds();
                assert_eq!(answer.outcome, "booked");
                // Whoever was answered finds the state already there.
                let state = State::read(sandbox.state_dir(), trip);
                assert!(Some(state.revision) >= answer.revision, "{answer:?} was given before {state:?} covered it");
                winners.push(answer);
            }
            Some(3) => assert_eq!(finished.refused(3).outcome, "sold_out"),
            _ => finished.complain("expected booked or sold out"),
        }
    }
    winners
}

#[track_caller]
fn one_last_seat_in_20_rounds(protocol: Protocol) {
    let sandbox = Sandbox::new().with_protocol(protocol);
    for round in 0..20 {
        let trip = format!("round-{round}");
        sandbox.add(&trip, 1).succeeds();
        let winners = rush(&sandbox, &trip, "60");
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        let ledger = ledger::judge(sandbox.state_dir(), &trip);
        ledger.holds(&winners);
        assert_eq!((ledger.sum().seats_left, ledger.bookings.len()), (0, 1));
    }
}

#[test]
fn one_last_seat_is_sold_once_in_each_of_20_rounds() {
    one_last_seat_in_20_rounds(Protocol::TwoLocks);
}

#[test]
fn one_last_seat_is_sold_once_with_one_lock() {
    one_last_seat_in_20_rounds(Protocol::OneLock);
}

#[test]
fn forty_seats_go_to_forty_of_64_students_and_readers_see_sums_only() {
    let sandbox = Sandbox::new();
    let mut reads = 0;
    for trip in ["a", "b", "c", "d", "e"] {
        sandbox.add(trip, 40).succeeds();
        let (winners, seen) = while_reading(sandbox.state_dir(), trip, || rush(&sandbox, trip, "60"));
        reads += seen;
        assert_eq!(winners.len(), 40);
        let ledger = ledger::judge(sandbox.state_dir(), trip);
        ledger.holds(&winners);
        assert_eq!((ledger.sum().seats_left, ledger.bookings.len()), (0, 40));
    }
    assert!(reads > 100, "only {reads} reads happened during the rush");
}

/// Reads state and ledger all the time, without a lock, while something happens; what that gave, and how many reads
/// found the trip between its first and its last booking.
#[track_caller]
fn while_reading<T>(state_dir: &Path, trip: &str, happens: impl FnOnce() -> T) -> (T, usize) {
    let over = AtomicBool::new(false);
    let between = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !over.load(Ordering::Relaxed) {
                // The state first: the ledger only grows.
                let state = State::read(state_dir, trip);
                Ledger::read(state_dir, trip).agrees_with(&state);
                assert!(state.revision >= last, "the state went back from {last} to {}", state.revision);
                last = state.revision;
                if (2..41).contains(&last) {
                    between.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let stop = StopOnDrop(&over);
        let result = happens();
        drop(stop);
        if let Err(panic) = reader.join() {
            std::panic::resume_unwind(panic);
        }
        (result, between.load(Ordering::Relaxed))
    })
}

/// Also when what happens panics: the reader must not read for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
