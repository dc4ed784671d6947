//! Power cuts while 64 processes book: every answer that was given, refusals included, holds when the power is back.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::{
    ledger::{self, Ledger},
    machine,
    mount::{Disk, Kind},
    sandbox::{Answer, Finished, Invocation, Protocol, Sandbox, eventually},
};

/// How many processes book at once.
const PROCESSES: usize = 64;

/// Few, so that there are refusals too.
const SEATS: u32 = 120;

/// What a student asked for, and what was answered, if anything.
#[derive(Debug)]
struct Attempt {
    trip: String,
    cancel: bool,
    student: String,
    id: String,
    answer: Option<(i32, Answer)>,
}

impl Attempt {
    fn invocation(&self, sandbox: &Sandbox) -> Invocation {
        let ask = if self.cancel { Sandbox::cancel } else { Sandbox::book };
        ask(sandbox, &self.trip, &self.student).wait("60").request(&self.id)
    }

    fn note(&mut self, finished: &Finished) {
        if let (Some(code @ (0 | 3 | 4)), Some(answer)) = (finished.code(), finished.answer()) {
            self.answer = Some((code, answer));
        }
    }
}

/// Books, cancels and is refused in every way, until the power is cut after so many answers.
fn book_until_cut(sandbox: &Sandbox, disk: &Disk, trip: &str, answers: usize) -> Vec<Attempt> {
    let cut = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let attempts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..PROCESSES {
            let (cut, answered, attempts) = (&cut, &answered, &attempts);
            scope.spawn(move || {
                for turn in 0.. {
                    // Book, ask again (refused: already booked), cancel, cancel again (refused: no booking), book …
                    // and keep every third seat, so that the trip sells out.
                    let student = format!("{worker}-{}", turn / 5);
                    let cancel = matches!(turn % 5, 2 | 3) && (turn / 5 + worker) % 3 != 0;
                    let id = format!("{worker}.{turn}");
                    let mut attempt = Attempt { trip: trip.to_owned(), cancel, student, id, answer: None };
                    let finished = attempt.invocation(sandbox).run();
                    attempt.note(&finished);
                    let failed = attempt.answer.is_none();
                    if failed && !cut.load(Ordering::SeqCst) {
                        finished.complain("no answer though the power was there");
                    }
                    attempts.lock().unwrap().push(attempt);
                    answered.fetch_add(usize::from(!failed), Ordering::SeqCst);
                    if failed || cut.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        eventually("there are enough answers", || answered.load(Ordering::SeqCst) >= answers);
        cut.store(true, Ordering::SeqCst);
        disk.cut();
    });
    attempts.into_inner().unwrap()
}

/// Everything that was answered stands, and is answered again to whoever asks again.
fn answers_hold(sandbox: &Sandbox, trip: &str, attempts: &[Attempt]) {
    let given = || attempts.iter().filter_map(|attempt| attempt.answer.as_ref().map(|(_, answer)| answer));
    // The first command after the cut repairs what there is to repair.
    sandbox.book(trip, "after-the-cut").run();
    Ledger::read(sandbox.state_dir(), trip).holds(given());
    let next = AtomicUsize::new(0);
    let late = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(attempt) = attempts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let finished = attempt.invocation(sandbox).run();
                    let Some(again) = finished.answer() else { finished.complain("no answer after the cut") };
                    if let Some((code, answer)) = &attempt.answer {
                        finished.exits(*code);
                        answer.is_replayed_by(&again);
                    } else {
                        late.lock().unwrap().push(again);
                    }
                }
            });
        }
    });
    let ledger = ledger::judge(sandbox.state_dir(), trip);
    ledger.holds(given());
    ledger.holds(&late.into_inner().unwrap());
    sandbox.has_no_litter();
}

fn power_cuts(kind: Kind, protocol: Protocol, rounds: usize) {
    let test = format!("power cuts on {kind:?}");
    if !machine::may_mount(&test) || !machine::has(&test, &[kind.mkfs(), "perl"]) {
        return;
    }
    let mut disk = Disk::new(kind);
    let sandbox = Sandbox::new().with_state(disk.point().join("state")).with_protocol(protocol);
    let mut history = Vec::new();
    for round in 0..rounds {
        let trip = format!("trip-{round}");
        sandbox.add(&trip, SEATS).request("added").succeeds();
        let attempts = book_until_cut(&sandbox, &disk, &trip, fastrand::usize(1..300));
        disk.remount();
        answers_hold(&sandbox, &trip, &attempts);
        history.push((trip, attempts));
    }
    // What one cut spared, the later ones did not take either.
    let mut refusals = 0;
    for (trip, attempts) in &history {
        let answers: Vec<_> = attempts.iter().filter_map(|attempt| attempt.answer.as_ref()).collect();
        Ledger::read(sandbox.state_dir(), trip).holds(answers.iter().map(|(_, answer)| answer));
        refusals += answers.iter().filter(|(code, _)| *code != 0).count();
    }
    let answers: usize = history.iter().map(|(_, attempts)| attempts.len()).sum();
    assert!(refusals > 0, "no refusal was answered before a cut");
    println!("{test}, {protocol:?}: {rounds} cuts, {answers} requests, {refusals} refusals");
}

fn rounds() -> usize {
    machine::number("TRIPLOCK_POWER_CUT_ROUNDS", 10)
}

#[test]
fn every_answer_survives_power_cuts_on_ext4() {
    power_cuts(Kind::Ext4, Protocol::TwoLocks, rounds());
}

#[test]
fn every_answer_survives_power_cuts_on_xfs() {
    power_cuts(Kind::Xfs, Protocol::TwoLocks, rounds());
}

#[test]
fn every_answer_survives_power_cuts_with_one_lock() {
    power_cuts(Kind::Ext4, Protocol::OneLock, rounds().div_ceil(2));
}
