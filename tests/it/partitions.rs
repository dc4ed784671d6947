//! Three hosts book and cancel while networks and servers fail: no seat is sold twice, no answer is lost, nothing
//! happens twice.
//!
//! `TRIPLOCK_PARTITION_ROUNDS=100` for the long form: so many times each fault.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::Duration,
};

use crate::{
    field::{Fault, Field, Kind},
    hosts::Host,
    machine, namespace,
    operations::{Notes, Told, TripHistory, Wish, nothing_is_violated},
    seat_rules::{self, Promise},
};

const TRIP: &str = "1";
const SEATS: u64 = 25;

/// How many students of a host ask at the same time.
const STUDENTS: usize = 2;

/// Asks for one thing after another, for each until it is answered or the time is over. Commands are killed at times.
fn ask_for_seats(notes: &Notes, host: &Host, asker: &str, is_over: &AtomicBool) {
    for turn in 0.. {
        // Book, ask once more, cancel, book again … and at times for what there is not.
        let student = format!("{asker}-{}", turn / 4);
        let wish = match turn % 4 {
            2 if turn % 3 != 0 => Wish::Cancel { student },
            _ => Wish::Book { student, seats: 1 + turn % 2 },
        };
        let id = format!("{asker}.{turn}");
        loop {
            let told = notes.ask(host, TRIP, &wish, &id, "5");
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            if matches!(told, Told::Answer(_)) {
                break;
            }
            sleep(Duration::from_millis(20));
        }
        sleep(Duration::from_millis(fastrand::u64(20..100)));
    }
}

/// Hosts book before, during and after the fault; what came of it is judged.
fn book_under(kind: Kind, fault: Fault, time: Duration) {
    let mut field = Field::new(kind, fault);
    field.hosts()[0].triplock(["trip", "add", TRIP, "--seats", &SEATS.to_string()]).run().exits(0);
    let notes = Notes::default();
    let is_over = AtomicBool::new(false);
    let (hosts, servers) = field.split();
    std::thread::scope(|scope| {
        for host in hosts.each() {
            for student in 0..STUDENTS {
                let (notes, is_over) = (&notes, &is_over);
                scope.spawn(move || ask_for_seats(notes, host, &format!("{}-{student}", host.name()), is_over));
            }
        }
        sleep(time / 5);
        fault.happens(hosts, servers, time);
        sleep(time / 5);
        is_over.store(true, Ordering::SeqCst);
    });
    let history = TripHistory::settle(&field.hosts()[1], TRIP, SEATS, notes.into_asked());
    let is_behind = fault == Fault::FailoverBehind;
    let promise = if is_behind { Promise::MayLoseTheLatest } else { Promise::Kept };
    let judged = seat_rules::judge(&history, promise);
    let when = format!("{fault:?} on {kind:?}");
    println!("{when}: {}", summary(&history, judged.lost));
    nothing_is_violated(&when, &judged.violations);
    assert!(!is_behind || judged.lost > 0, "{when}: the replica was behind, and nothing was lost");
}

/// What was asked and told, in numbers.
fn summary(history: &TripHistory, lost: usize) -> String {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for asked in &history.asked {
        let word = match &asked.told {
            Told::Answer(answer) => answer.outcome.clone(),
            Told::NothingChanged(code) => format!("exit {code}"),
            Told::Unknown => "uncertain".to_owned(),
        };
        *told.entry(word).or_default() += 1;
    }
    let told: Vec<_> = told.into_iter().map(|(word, times)| format!("{times} {word}")).collect();
    format!("{} commands: {}; {lost} answers lost", history.asked.len(), told.join(", "))
}

fn every_fault(test: &str, kind: Kind) {
    if !namespace::may_make(test) || !kind.is_installed(test) {
        return;
    }
    for _ in 0..machine::number("TRIPLOCK_PARTITION_ROUNDS", 1) {
        // Several at a time: most of the time is waiting.
        for some in Fault::ALL.chunks(4) {
            std::thread::scope(|scope| {
                for fault in some {
                    scope.spawn(|| book_under(kind, *fault, Duration::from_millis(1500)));
                }
            });
        }
    }
}

#[test]
fn no_seat_is_sold_twice_whatever_happens_to_hosts_and_redis() {
    every_fault("bookings of three hosts on Redis", Kind::Redis);
}

#[test]
fn no_seat_is_sold_twice_whatever_happens_to_hosts_and_postgres() {
    every_fault("bookings of three hosts on PostgreSQL", Kind::Postgres);
}
