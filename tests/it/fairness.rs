//! 64 processes hammer one trip: everybody gets his share.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use crate::{ledger, sandbox::Sandbox};

const WORKERS: usize = 64;
const FOR: Duration = Duration::from_secs(5);

/// Bookings of a batch that holds the lock for long.
const LINES: usize = 100;

/// Jain's index: (Σx)² / (n·Σx²), 1 when all are equal, 1/n when one has everything. (R. Jain, D. Chiu, W. Hawe, "A
/// quantitative measure of fairness and discrimination", DEC-TR-301, 1984.)
#[allow(clippy::cast_precision_loss)]
fn jain(shares: &[usize]) -> f64 {
    let sum: usize = shares.iter().sum();
    let squares: usize = shares.iter().map(|share| share * share).sum();
    (sum * sum) as f64 / (shares.len() * squares) as f64
}

#[test]
fn jains_index_tells_fair_from_unfair() {
    assert!((jain(&[5; 64]) - 1.0).abs() < 1e-9);
    assert!((jain(&[8, 0, 0, 0]) - 0.25).abs() < 1e-9);
}

/// 64 workers that each run one process after the other for 5 s, and on a slow machine for longer, until they have run
/// `each` on average: of a handful of processes each, the index would tell the scheduler's dice, not the lock. How
/// many each got done.
fn hammer(each: usize, work: impl Fn(&str) + Sync) -> Vec<usize> {
    let begun = Instant::now();
    let total = AtomicUsize::new(0);
    let over = || begun.elapsed() >= FOR && total.load(Ordering::Relaxed) >= each * WORKERS;
    let shares: Vec<usize> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (work, total, over) = (&work, &total, &over);
                scope.spawn(move || {
                    let mut done = 0;
                    while !over() {
                        work(&format!("{worker}-{done}"));
                        done += 1;
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                    done
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker's own message says why")).collect()
    });
    let fairness = jain(&shares);
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    let (total, took) = (total.into_inner(), begun.elapsed());
    println!("{total} processes in {took:?}: Jain {fairness:.4}, shares {least} to {most}");
    assert!(*least > 0, "somebody got nothing: {shares:?}");
    assert!(fairness >= 0.97, "Jain {fairness:.4}: {shares:?}");
    shares
}

#[test]
fn sixty_four_processes_get_equal_shares() {
    let sandbox = Sandbox::alone().trip("1", u32::MAX);
    let shares = hammer(60, |student| drop(sandbox.book("1", student).wait("60").succeeds()));
    assert_eq!(ledger::judge(sandbox.state_dir(), "1").bookings.len(), shares.iter().sum::<usize>());
}

/// A booking holds the lock for a moment, so starting processes decides who comes when. Batches hold it for so long
/// that nearly all of the 64 wait for it at any moment: here the lock alone decides.
#[test]
fn sixty_four_processes_that_all_wait_get_equal_shares() {
    let sandbox = Sandbox::alone().trip("1", u32::MAX);
    let shares = hammer(30, |worker| {
        let line = |n| format!("{{\"student\":\"{worker}-{n}\"}}\n");
        let lines = (0..LINES).map(line).collect::<Vec<_>>().concat();
        sandbox.triplock(["book", "1", "--batch", "-"]).stdin(lines).wait("60").run().exits(0);
    });
    assert_eq!(ledger::judge(sandbox.state_dir(), "1").bookings.len(), shares.iter().sum::<usize>() * LINES);
}
