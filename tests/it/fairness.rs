//! 64 processes hammer one trip: everybody gets his share.

use std::time::{Duration, Instant};

use crate::{
    ledger,
    sandbox::{Protocol, Sandbox},
};

const WORKERS: usize = 64;
const FOR: Duration = Duration::from_secs(5);

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

#[test]
fn sixty_four_processes_get_equal_shares() {
    let sandbox = Sandbox::alone().with_protocol(Protocol::TwoLocks).trip("1", u32::MAX);
    let until = Instant::now() + FOR;
    let shares: Vec<usize> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let sandbox = &sandbox;
                scope.spawn(move || {
                    let mut booked = 0;
                    while Instant::now() < until {
                        sandbox.book("1", &format!("{worker}-{booked}")).wait("60").succeeds();
                        booked += 1;
                    }
                    booked
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker's own message says why")).collect()
    });
    let total: usize = shares.iter().sum();
    let fairness = jain(&shares);
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    println!("{total} bookings in {FOR:?}: Jain {fairness:.4}, shares {least} to {most}");
    assert!(*least > 0, "somebody got nothing: {shares:?}");
    assert!(fairness >= 0.97, "Jain {fairness:.4}: {shares:?}");
    assert_eq!(ledger::judge(sandbox.state_dir(), "1").bookings.len(), total);
}
