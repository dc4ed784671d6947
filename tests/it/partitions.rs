//! Three hosts book seats and run a leased job while networks and servers fail. No seat is sold twice, no answer is lost,
//! nothing happens twice; the job never runs twice at a time, never outlives its lease, and who has lost the lease records
//! nothing.
//!
//! `TRIPLOCK_PARTITION_ROUNDS=20` for the long form: so many times each fault, the rarer ones too, and for longer than any
//! patience at times.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use crate::{
    field::{Fault, Field, Kind},
    hosts::Host,
    lease_rules, machine, namespace,
    operations::{Notes, Told, TripHistory, Wish, nothing_is_violated},
    seat_rules::{self, Promise},
    stamping::{self, Stamping},
    turn::Turn,
};

const TRIP: &str = "1";
const SEATS: u64 = 25;

/// Short, so that leases are lost in a short test.
const LEASE: &str = "--lease 2";

/// Asks for one thing after another, for each until it is answered or the time is over.
fn ask_for_seats(notes: &Notes, host: &Host, is_over: &AtomicBool) {
    for turn in 0.. {
        // Book, ask once more, cancel, book again … and at times for what there is not.
        let student = format!("{}-{}", host.name(), turn / 4);
        let wish = match turn % 4 {
            2 if turn % 3 != 0 => Wish::Cancel { student },
            _ => Wish::Book { student, seats: 1 + turn % 2 },
        };
        let id = format!("{}.{turn}", host.name());
        loop {
            let told = notes.ask(host, TRIP, &wish, &id, "5");
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            if matches!(told, Told::Answer(_)) {
                break;
            }
            sleep(Duration::from_millis(100));
        }
        sleep(Duration::from_millis(fastrand::u64(20..150)));
    }
}

/// Runs the job again and again, for some time each; kills some of the wrappers.
fn run_again_and_again(stamping: &Stamping, host: &Host, started: &AtomicUsize, is_over: &AtomicBool) {
    while !is_over.load(Ordering::SeqCst) {
        let tag = format!("{}.{}", host.name(), started.fetch_add(1, Ordering::SeqCst));
        let options = if fastrand::bool() { format!("{LEASE} -w 3") } else { LEASE.to_owned() };
        let run = stamping.start(host, &tag, &options, [0.1, 0.5, 2.5][fastrand::usize(0..3)]);
        if fastrand::u8(0..8) == 0 {
            sleep(Duration::from_millis(fastrand::u64(0..1500)));
            run.running.kill();
        }
        let code = run.finish();
        assert!(matches!(code, None | Some(0 | 75 | 76 | 125)), "{tag}: {code:?}");
        sleep(Duration::from_millis(fastrand::u64(50..300)));
    }
}

/// Hosts book and run before, during and after the fault; what came of it is judged.
fn suffer(kind: Kind, fault: Fault, time: Duration, turn: &Arc<Turn>) {
    let when = format!("{fault:?} for {time:?} on {kind:?}");
    let mut field = Field::new(kind, fault, turn);
    field.hosts()[0].triplock(["trip", "add", TRIP, "--seats", &SEATS.to_string()]).run().exits(0);
    let (notes, stamping) = (Notes::default(), Stamping::new(&field.hosts()[0].path("")));
    let (is_over, all_ended, started) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    let (hosts, servers) = field.split();
    servers.replica_catches_up();
    let looked_at = servers.place();
    std::thread::scope(|scope| {
        scope.spawn(|| stamping.look(&looked_at, &all_ended));
        let (notes, stamping, started, is_over) = (&notes, &stamping, &started, &is_over);
        let all: Vec<_> = hosts
            .each()
            .iter()
            .flat_map(|host| {
                let asker = scope.spawn(move || ask_for_seats(notes, host, is_over));
                let runner = scope.spawn(move || run_again_and_again(stamping, host, started, is_over));
                [asker, runner]
            })
            .collect();
        sleep(Duration::from_millis(800));
        fault.happens(hosts, servers, time);
        sleep(Duration::from_millis(800));
        is_over.store(true, Ordering::SeqCst);
        let ended: Vec<_> = all.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        all_ended.store(true, Ordering::SeqCst);
        for end in ended {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    // What was left hanging is over when its lease is: the next run says what became of it.
    let last = stamping.start(&field.hosts()[0], "last", &format!("{LEASE} -w 10"), 0.1);
    assert_eq!(last.finish(), Some(0), "{when}: all is well, and the job does not run");
    let promise = if fault == Fault::FailoverBehind { Promise::MayLoseTheLatest } else { Promise::Kept };
    let trip = TripHistory::settle(&field.hosts()[1], TRIP, SEATS, notes.into_asked());
    judge_trip(&when, &trip, promise);
    judge_job(&when, stamping, &mut field, promise);
}

fn judge_trip(when: &str, history: &TripHistory, promise: Promise) {
    let judged = seat_rules::judge(history, promise);
    println!("{when}: {}", summary(history, judged.lost));
    nothing_is_violated(when, &judged.violations);
    let may_lose = promise == Promise::MayLoseTheLatest;
    assert!(!may_lose || judged.lost > 0, "{when}: the replica was behind, and nothing was lost");
}

fn judge_job(when: &str, stamping: Stamping, field: &mut Field, promise: Promise) {
    let history = stamping.into_history(&field.split().1.ledger());
    println!("{when}: {}", stamping::summary(&history));
    let found = lease_rules::judge(&history);
    let (excused, found): (Vec<_>, _) = found.into_iter().partition(|found| found.rule.is_excused(promise));
    println!("{when}: {} rules of jobs broken that were not promised", excused.len());
    nothing_is_violated(when, &found);
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
    if !namespace::may_make(test) || !kind.is_installed(test) || !machine::has(test, &["perl"]) {
        return;
    }
    // A lease of two seconds leaves a quarter of one for what a busy machine does to the end of a job.
    let turn = &Arc::new(Turn::alone());
    let rounds = machine::number("TRIPLOCK_PARTITION_ROUNDS", 0);
    let faults: &[Fault] = if rounds == 0 { &Fault::MOST } else { &Fault::ALL };
    for _ in 0..rounds.max(1) {
        // Several at a time: most of the time is waiting.
        for some in faults.chunks(4) {
            std::thread::scope(|scope| {
                for fault in some {
                    let time = if rounds == 0 { 3000 } else { fastrand::u64(1000..15_000) };
                    scope.spawn(move || suffer(kind, *fault, Duration::from_millis(time), turn));
                }
            });
        }
    }
}

#[test]
fn nothing_happens_twice_whatever_happens_to_hosts_and_redis() {
    every_fault("three hosts and Redis", Kind::Redis);
}

#[test]
fn nothing_happens_twice_whatever_happens_to_hosts_and_postgres() {
    every_fault("three hosts and PostgreSQL", Kind::Postgres);
}
