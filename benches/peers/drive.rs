//! The one driver that every system is measured with: threads that start a process, wait for it, and start the next.

use std::{
    process::{Command, Stdio},
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::report::Figures;

/// What a timed run of several drivers came to.
pub(crate) struct Drove {
    /// How many processes each driver ran to their end.
    pub(crate) by_driver: Vec<u64>,
    /// From the start signal to the end of the last process.
    pub(crate) took: Duration,
}

impl Drove {
    /// Processes in all.
    pub(crate) fn done(&self) -> u64 {
        self.by_driver.iter().sum()
    }

    /// Processes per second.
    pub(crate) fn rate(&self) -> f64 {
        self.done() as f64 / self.took.as_secs_f64()
    }

    /// Jain's index of fairness: 1 when every driver got the same, 1/n when one got everything.
    /// (Jain, Chiu, Hawe, DEC TR-301, 1984.)
    pub(crate) fn jain(&self) -> f64 {
        let sum: f64 = self.by_driver.iter().map(|n| *n as f64).sum();
        let squares: f64 = self.by_driver.iter().map(|n| (*n as f64).powi(2)).sum();
        sum * sum / (self.by_driver.len() as f64 * squares)
    }
}

/// Runs `drivers` threads until the time is up; each takes the next number and runs the command made for it. A
/// process that fails ends the benchmark: a rate of failures means nothing.
pub(crate) fn for_a_while(
    drivers: usize,
    time: Duration,
    next: &AtomicU64,
    command: impl Fn(u64) -> Command + Sync,
) -> Drove {
    let start = Barrier::new(drivers + 1);
    let (by_driver, took) = thread::scope(|scope| {
        let (start, command) = (&start, &command);
        let drivers: Vec<_> = (0..drivers)
            .map(|_| {
                scope.spawn(move || {
                    start.wait();
                    let until = Instant::now() + time;
                    let mut done = 0;
                    while Instant::now() < until {
                        run(&mut command(next.fetch_add(1, Ordering::Relaxed)));
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let by_driver: Vec<u64> = drivers.into_iter().map(|driver| driver.join().expect("a driver failed")).collect();
        (by_driver, began.elapsed())
    });
    Drove { by_driver, took }
}

/// A command that is measured beside others: what it is called, and how it is made.
pub(crate) type Contestant<'a> = (String, Box<dyn Fn() -> Command + 'a>);

/// How long each takes from its start to its end, in µs: the p50 of `turns` processes, once a round. Turn by turn, so that
/// whatever else the machine does hits all alike.
pub(crate) fn in_turn(rounds: usize, turns: usize, contestants: &[Contestant<'_>]) -> Vec<Figures> {
    let mut p50 = vec![Vec::new(); contestants.len()];
    for _ in 0..rounds {
        let mut took = vec![Vec::<Duration>::new(); contestants.len()];
        for _ in 0..turns {
            for ((_, command), took) in contestants.iter().zip(&mut took) {
                took.push(run(&mut command()));
            }
        }
        for (took, p50) in took.iter().zip(&mut p50) {
            p50.push(median(took).as_secs_f64() * 1e6);
        }
    }
    p50.iter().map(|rounds| Figures::new(rounds, "µs")).collect()
}

/// Runs one process to its end, quietly, and gives how long that took.
pub(crate) fn run(command: &mut Command) -> Duration {
    let began = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let took = began.elapsed();
    assert!(status.success(), "{command:?} ended with {status}");
    took
}

/// What a process printed; it must succeed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} ended with {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// The middle one.
pub(crate) fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("comparable"));
    sorted[sorted.len() / 2]
}
