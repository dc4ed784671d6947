//! Three hosts have the same job in their crontabs, with a leased store, while networks, servers and wrappers fail: it
//! never runs twice at a time, it never outlives its lease, and who lost the lease records nothing.
//!
//! `TRIPLOCK_PARTITION_ROUNDS=100` for the long form: so many times each fault.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    field::{Fault, Field, Kind},
    hosts::Host,
    latch, lease_rules,
    lease_rules::Rule,
    machine, namespace,
    operations::nothing_is_violated,
    sandbox::eventually,
    stamping::{Stamping, StampingRun, summary},
};

/// Short, so that leases are lost in a short test.
const LEASE: &str = "--lease 2";
const TTL: Duration = Duration::from_secs(2);

/// What becomes of a wrapper, or of what it depends on, while its job goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    WrapperStopped,
    WrapperKilled,
    GuardianKilled,
    CableCut,
    /// So it is the wrapper that ends the job.
    GuardianStoppedAndCableCut,
}

const MISHAPS: [Mishap; 5] = [
    Mishap::WrapperStopped,
    Mishap::WrapperKilled,
    Mishap::GuardianKilled,
    Mishap::CableCut,
    Mishap::GuardianStoppedAndCableCut,
];

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
        sleep(Duration::from_millis(fastrand::u64(0..150)));
    }
}

/// Hosts run it before, during and after the fault; what came of it is judged.
fn run_under(kind: Kind, fault: Fault, time: Duration) {
    let mut field = Field::new(kind, fault);
    let stamping = Stamping::new(&field.hosts()[0].path(""));
    let (is_over, all_ended, started) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    let (hosts, servers) = field.split();
    let looked_at = servers.place();
    std::thread::scope(|scope| {
        scope.spawn(|| stamping.look(&looked_at, &all_ended));
        let runners: Vec<_> = hosts
            .each()
            .iter()
            .map(|host| {
                let (stamping, started, is_over) = (&stamping, &started, &is_over);
                scope.spawn(move || run_again_and_again(stamping, host, started, is_over))
            })
            .collect();
        sleep(Duration::from_secs(1));
        fault.happens(hosts, servers, time);
        sleep(Duration::from_secs(1));
        is_over.store(true, Ordering::SeqCst);
        for runner in runners {
            let ended = runner.join();
            all_ended.store(true, Ordering::SeqCst);
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    // Whatever was left hanging is over when its lease is: the next run says what became of it.
    let last = stamping.start(&field.hosts()[0], "last", &format!("{LEASE} -w 10"), 0.1);
    assert_eq!(last.finish(), Some(0), "{fault:?} on {kind:?}: all is well, and the job does not run");
    judge(&format!("{fault:?} on {kind:?}"), stamping, &mut field, fault == Fault::FailoverBehind);
}

/// Judges what is known. `leases_were_lost`: by the server, which did not promise to keep them.
fn judge(when: &str, stamping: Stamping, field: &mut Field, leases_were_lost: bool) {
    let history = stamping.into_history(&field.split().1.ledger());
    println!("{when}: {}", summary(&history));
    let mut found = lease_rules::judge(&history);
    if leases_were_lost {
        let before = found.len();
        found.retain(|found| !matches!(found.rule, Rule::Overlap | Rule::AliveWithoutLease | Rule::AnswerNotRecorded));
        println!("{when}: {} rules broken with the leases that the server lost", before - found.len());
    }
    nothing_is_violated(when, &found);
}

fn every_fault(test: &str, kind: Kind) {
    if !namespace::may_make(test) || !kind.is_installed(test) || !machine::has(test, &["perl"]) {
        return;
    }
    for _ in 0..machine::number("TRIPLOCK_PARTITION_ROUNDS", 1) {
        for some in Fault::ALL.chunks(4) {
            std::thread::scope(|scope| {
                for fault in some {
                    scope.spawn(|| run_under(kind, *fault, Duration::from_secs(4)));
                }
            });
        }
    }
}

#[test]
fn no_job_runs_twice_whatever_happens_to_hosts_and_redis() {
    every_fault("jobs of three hosts on Redis", Kind::Redis);
}

#[test]
fn no_job_runs_twice_whatever_happens_to_hosts_and_postgres() {
    every_fault("jobs of three hosts on PostgreSQL", Kind::Postgres);
}

/// A job of one host goes on for ever; something happens to it, and another host waits for it.
fn mishap(kind: Kind, mishap: Mishap) {
    let mut field = Field::new(kind, Fault::Cut);
    let stamping = Stamping::new(&field.hosts()[0].path(""));
    let is_over = AtomicBool::new(false);
    let when = format!("{mishap:?} on {kind:?}");
    let (hosts, servers) = field.split();
    let looked_at = servers.place();
    let [a, b, _] = hosts.each() else { unreachable!("three hosts") };
    std::thread::scope(|scope| {
        scope.spawn(|| stamping.look(&looked_at, &is_over));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let first = stamping.start(a, "first", LEASE, 60.0);
            eventually("the job runs", || stamping.has_begun("first"));
            // Not only as long as the first lease lasts.
            sleep(TTL * 3 / 2);
            let guardian = guardian(&first);
            match mishap {
                Mishap::WrapperStopped => first.running.signal(Signal::STOP),
                Mishap::WrapperKilled => first.running.kill(),
                Mishap::GuardianKilled => latch::signal(guardian, Signal::KILL),
                Mishap::CableCut => a.cut(),
                Mishap::GuardianStoppedAndCableCut => {
                    latch::signal(guardian, Signal::STOP);
                    a.cut();
                }
            }
            let begun = Instant::now();
            let second = stamping.start(b, "second", &format!("{LEASE} -w 20"), 0.2);
            assert_eq!(second.finish(), Some(0), "{when}: the other host");
            let took = begun.elapsed();
            // A wrapper that was away for three times as long as its lease comes back.
            sleep((TTL * 3).saturating_sub(took));
            first.running.signal(Signal::CONT);
            a.heal();
            let code = first.finish();
            println!("{when}: the other host was done after {took:?}, the first exited with {code:?}");
            match mishap {
                Mishap::WrapperKilled => assert_eq!(code, None, "{when}"),
                // That is none of the lease: it is released, and triplock has failed.
                Mishap::GuardianKilled => assert_eq!(code, Some(125), "{when}"),
                _ => assert_eq!(code, Some(76), "{when}"),
            }
        }));
        is_over.store(true, Ordering::SeqCst);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let last = stamping.start(&field.hosts()[0], "last", LEASE, 0.1);
    assert_eq!(last.finish(), Some(0), "{when}: afterwards");
    judge(&when, stamping, &mut field, false);
}

/// The process between wrapper and job.
fn guardian(run: &StampingRun<'_>) -> i32 {
    let wrapper = run.running.id();
    let children = fs::read_to_string(format!("/proc/{wrapper}/task/{wrapper}/children")).expect("list children");
    children.split_whitespace().next().expect("a wrapper has a guardian").parse().expect("a process id")
}

fn every_mishap(test: &str, kind: Kind) {
    if !namespace::may_make(test) || !kind.is_installed(test) || !machine::has(test, &["perl"]) {
        return;
    }
    std::thread::scope(|scope| {
        for one in MISHAPS {
            scope.spawn(move || mishap(kind, one));
        }
    });
}

#[test]
fn a_job_is_dead_before_its_lease_passes_on_whoever_is_stopped_or_killed_on_redis() {
    every_mishap("mishaps of wrappers on Redis", Kind::Redis);
}

#[test]
fn a_job_is_dead_before_its_lease_passes_on_whoever_is_stopped_or_killed_on_postgres() {
    every_mishap("mishaps of wrappers on PostgreSQL", Kind::Postgres);
}
