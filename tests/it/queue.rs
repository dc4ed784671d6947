//! The queue: what is added to a lane runs in the background, in order and one at a time.

use std::sync::Mutex;

use crate::{
    job::is_alive,
    lanes::{ascend, noted, number, run_id},
    latch::Latch,
    sandbox::{Sandbox, eventually},
};

/// Several add at once, and each a little after what it added before.
#[test]
fn two_hundred_runs_start_in_the_order_of_their_numbers_one_at_a_time() {
    const ADDERS: usize = 4;
    let sandbox = Sandbox::new();
    let runs = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for adder in 0..ADDERS {
            let (sandbox, runs) = (&sandbox, &runs);
            scope.spawn(move || {
                for turn in 0..200 / ADDERS {
                    // Some are over sooner than the next one is added, others let a line grow.
                    let then = ["", "exec sleep 0.01", "", "exec sleep 0.03"][(adder + turn) % 4];
                    let run = run_id(&sandbox.adds("mail", &[], &noted(then)).run());
                    runs.lock().unwrap().push(run);
                }
            });
        }
    });
    let mut numbers: Vec<_> = runs.into_inner().unwrap().iter().map(|run| number(run)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
    sandbox.ends("mail/200", 0);
    assert_eq!(sandbox.order(), numbers);
    assert_eq!(sandbox.starts("mail"), numbers);
    assert!(sandbox.fates("mail").values().all(|fate| fate == "succeeded"));
    assert_eq!(sandbox.listed("mail"), []);
    sandbox.lane_empties("mail");
}

#[test]
fn a_lane_lists_what_runs_and_what_waits_in_order() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    let first = run_id(&latch_job(&sandbox, "mail", &latch).run());
    latch.keeps(1);
    let others: Vec<_> = (0..5).map(|_| sandbox.queued("mail", &noted(""))).collect();
    let mut expected = vec![(first.clone(), "running".to_owned())];
    expected.extend(others.iter().map(|run| (run.clone(), "waiting".to_owned())));
    assert_eq!(sandbox.listed("mail"), expected);
    let processes: Vec<_> = others.iter().map(|run| sandbox.process_of(run).expect("it has a process")).collect();
    latch.open();
    sandbox.ends(&others[4], 0);
    sandbox.ends(&first, 0);
    let order = sandbox.order();
    ascend(&order);
    assert_eq!(order.len(), 5);
    // And nothing is left of them.
    for pid in processes {
        eventually("it is gone", || !is_alive(pid));
    }
    sandbox.lane_empties("mail");
    eventually("nothing runs", || sandbox.processes().is_empty());
}

/// `queue add` of a job that runs until the latch is opened.
pub(crate) fn latch_job(sandbox: &Sandbox, lane: &str, latch: &Latch) -> crate::sandbox::Invocation {
    latch.command().iter().fold(sandbox.queue(["add", lane, "--"]), crate::sandbox::Invocation::arg)
}
