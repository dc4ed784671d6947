//! Wrappers, guardians and cables of hosts that run a leased job: whichever of them fails, the job is dead before another
//! host starts it, and who has lost the lease records nothing.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    field::{Fault, Field, Kind},
    hosts::{Direction, Host},
    latch, lease_rules, machine, namespace,
    operations::nothing_is_violated,
    sandbox::eventually,
    stamping::{Stamping, StampingRun, summary},
    turn::Turn,
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
    /// The job ends well and in time, and the server hears of it when another host has the lease.
    EndHeldBack,
}

const MISHAPS: [Mishap; 6] = [
    Mishap::WrapperStopped,
    Mishap::WrapperKilled,
    Mishap::GuardianKilled,
    Mishap::CableCut,
    Mishap::GuardianStoppedAndCableCut,
    Mishap::EndHeldBack,
];

/// A job of one host goes on for long; something happens to it, and another host waits for it.
fn mishap(kind: Kind, mishap: Mishap, turn: &Arc<Turn>) {
    let by_proxy = mishap == Mishap::EndHeldBack;
    let mut field = Field::new(kind, if by_proxy { Fault::AnswersLost } else { Fault::Cut }, turn).with_direct(1);
    let stamping = Stamping::new(&field.hosts()[0].path(""));
    let is_over = AtomicBool::new(false);
    let when = format!("{mishap:?} on {kind:?}");
    let (hosts, servers) = field.split();
    let looked_at = servers.place();
    let [a, b, _] = hosts.each() else { unreachable!("three hosts") };
    std::thread::scope(|scope| {
        scope.spawn(|| stamping.look(&looked_at, &is_over));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let first = survivor(&stamping, a, if by_proxy { 3.5 } else { 60.0 });
            let guardian = guardian(&first).expect("a wrapper has a guardian");
            match mishap {
                Mishap::WrapperStopped => first.running.signal(Signal::STOP),
                Mishap::WrapperKilled => first.running.kill(),
                Mishap::GuardianKilled => latch::signal(guardian, Signal::KILL),
                Mishap::CableCut => a.cut(),
                Mishap::EndHeldBack => servers.proxy().hold(Direction::Out),
                Mishap::GuardianStoppedAndCableCut => {
                    latch::signal(guardian, Signal::STOP);
                    a.cut();
                }
            }
            let begun = Instant::now();
            let second = stamping.start(b, "second", &format!("{LEASE} -w 20"), 0.2);
            eventually("the other host runs it", || stamping.has_begun("second"));
            servers.proxy().flow();
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
    let history = stamping.into_history(&field.split().1.ledger());
    println!("{when}: {}", summary(&history));
    nothing_is_violated(&when, &lease_rules::judge(&history));
}

/// A run that has lasted longer than its first lease. (On a machine with too much to do, a lease of two seconds is lost
/// without any mishap.)
fn survivor<'s>(stamping: &'s Stamping, host: &Host, seconds: f64) -> StampingRun<'s> {
    for attempt in 0..5 {
        let tag = format!("first{attempt}");
        let run = stamping.start(host, &tag, LEASE, seconds);
        eventually("the job runs", || stamping.has_begun(&tag));
        sleep(TTL * 3 / 2);
        if guardian(&run).is_some() {
            return run;
        }
        assert_eq!(run.finish(), Some(76), "it ended though nothing happened");
    }
    panic!("a lease does not last on this machine");
}

/// The process between wrapper and job, while there is one.
fn guardian(run: &StampingRun<'_>) -> Option<i32> {
    let wrapper = run.running.id();
    let children = fs::read_to_string(format!("/proc/{wrapper}/task/{wrapper}/children")).ok()?;
    Some(children.split_whitespace().next()?.parse().expect("a process id"))
}

fn every_mishap(test: &str, kind: Kind) {
    if !namespace::may_make(test) || !kind.is_installed(test) || !machine::has(test, &["perl"]) {
        return;
    }
    // A lease of two seconds leaves a quarter of one for what a busy machine does to the end of a job.
    let turn = &Arc::new(Turn::alone());
    std::thread::scope(|scope| {
        for one in MISHAPS {
            scope.spawn(move || mishap(kind, one, turn));
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
