//! `kill -9` of whoever waits and whoever runs: the rest of a lane goes on in order, nothing runs twice, and what was killed
//! is not forgotten.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use rustix::process::Signal;

use crate::{
    job::children,
    job_lines::JobLedger,
    lanes::{ascend, noted, number},
    latch::Latch,
    machine,
    queue::latch_job,
    sandbox::{Sandbox, eventually},
};

/// How many runs a round queues.
const RUNS: u64 = 24;

/// How many are killed in it, at most.
const KILLS: usize = 8;

/// What a round killed.
#[derive(Debug, Default)]
struct Killed {
    /// Runs whose waiter or runner was, and which process that was.
    processes: BTreeMap<u64, u32>,
    /// Runs whose command was.
    commands: BTreeSet<u64>,
}

/// Says which round it was when that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed of this round: TRIPLOCK_QUEUE_SEED={}", self.0);
        }
    }
}

#[test]
fn whoever_is_killed_the_others_run_in_order_and_each_once() {
    let rounds = machine::number("TRIPLOCK_QUEUE_ROUNDS", 2);
    let first = machine::number("TRIPLOCK_QUEUE_SEED", 1);
    for seed in first..first + rounds {
        let seed = Seed(seed as u64);
        round(&mut Rng::with_seed(seed.0));
    }
}

fn round(rng: &mut Rng) {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "mail", &latch).run().exits(0);
    latch.keeps(1);
    for _ in 0..RUNS {
        sandbox.queued("mail", &noted(["", "exec sleep 0.02", "exec sleep 0.05"][rng.usize(0..3)]));
    }
    // Some before anything moves, so that whole stretches of the line are missing; the rest while it moves.
    let mut killed = Killed::default();
    let before = rng.usize(0..KILLS / 2);
    kill_some(&sandbox, rng, before, &mut killed);
    latch.open();
    kill_some(&sandbox, rng, KILLS - before, &mut killed);
    eventually("all that still could has run", || sandbox.processes_in("mail").is_empty());
    // A command may outlive its runner, and the line does not move before it is over.
    sandbox.lane_empties("mail");

    let ran = sandbox.order();
    ascend(&ran);
    ascend(&sandbox.starts("mail"));
    let stranded: BTreeSet<_> = sandbox
        .listed("mail")
        .into_iter()
        .map(|(run, state)| {
            assert_eq!(state, "stranded", "{run}");
            number(&run)
        })
        .collect();
    let started: BTreeSet<_> = sandbox.starts("mail").into_iter().collect();
    assert_eq!(stranded.intersection(&started).count(), 0, "listed as waiting, and has run: {stranded:?}, {started:?}");
    assert_eq!(stranded.union(&started).copied().collect::<Vec<_>>(), (1..=RUNS + 1).collect::<Vec<_>>());
    assert!(
        stranded.iter().all(|run| killed.processes.contains_key(run)),
        "stranded, and nobody killed it: {stranded:?}, {killed:?}: {:#?}",
        sandbox.listed_whole("mail")
    );

    // Each that was stranded has its turn now, once.
    let resumed = sandbox.queue(["resume", "mail"]).run();
    resumed.exits(0);
    let told = |words: &str| -> BTreeSet<u64> {
        let lines = resumed.stdout.lines().filter(|line| line.contains(words));
        lines.map(|line| number(line.split_once(':').expect("a run id and words").0)).collect()
    };
    assert_eq!(told("waits in its lane again"), stranded, "{resumed:?}");
    sandbox.lane_empties("mail");
    eventually("all ends are recorded", || sandbox.listed("mail").is_empty());
    let again = sandbox.order().split_off(ran.len());
    ascend(&again);
    assert_eq!(again.into_iter().collect::<BTreeSet<_>>(), stranded);

    let fates = sandbox.fates("mail");
    assert_eq!(fates.keys().copied().collect::<Vec<_>>(), (1..=RUNS + 1).collect::<Vec<_>>());
    let order = sandbox.order();
    let mut of: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for (run, fate) in &fates {
        of.entry(fate).or_default().insert(*run);
        let times = order.iter().filter(|other| *other == run).count();
        // (The first one writes nothing.) Who was killed may have been so before it wrote its number.
        assert!(times <= 1 && (fate != "succeeded" || times == 1 || *run == 1), "{run} {fate} and ran {times} times");
    }
    let none = BTreeSet::new();
    let lost = of.get("lost").unwrap_or(&none);
    let failed = of.get("failed").unwrap_or(&none);
    assert!(
        lost.iter().all(|run| killed.processes.contains_key(run)),
        "lost, and nobody killed its runner: {lost:?}, {killed:?}"
    );
    assert!(failed.is_subset(&killed.commands), "failed, and nobody killed its command: {failed:?}, {killed:?}");
    assert!(of.keys().all(|fate| ["succeeded", "lost", "failed"].contains(fate)), "{of:?}");
    // Whoever was killed and is in neither list had written down its end, and was about to go.
    let ledger = JobLedger::read(&sandbox, "mail");
    for (run, pid) in killed.processes.iter().filter(|(run, _)| !stranded.contains(run) && !lost.contains(run)) {
        let end = ledger.events("ended").into_iter().find(|line| line["run"] == *run);
        assert!(
            end.is_some_and(|end| end["pid"] == *pid),
            "{run} was killed, and nothing says so: {:#?}",
            ledger.lines
        );
    }
    assert_eq!(sandbox.listed("mail"), []);
}

/// Kills waiters, runners and commands, whoever the dice say.
fn kill_some(sandbox: &Sandbox, rng: &mut Rng, number: usize, killed: &mut Killed) {
    for _ in 0..number {
        let processes: Vec<_> = sandbox.processes_in("mail").into_iter().collect();
        let Some(&(run, pid)) = (!processes.is_empty()).then(|| &processes[rng.usize(0..processes.len())]) else {
            return;
        };
        // The first in line more often than its share: it is the one that may be about to start, or run.
        let (run, pid) = if rng.bool() { processes[0] } else { (run, pid) };
        // (Not before it has written its number: until then it has a child, which would outlive it for a moment.)
        let is_alone = |run| sandbox.order().contains(run);
        if let (true, Some(&command)) = (rng.u8(0..3) == 0 && is_alone(&run), children(pid).first()) {
            if sandbox.signal_run("mail", run, command, Signal::KILL) {
                killed.commands.insert(run);
            }
        } else if sandbox.signal_run("mail", run, pid, Signal::KILL) {
            killed.processes.insert(run, pid);
        }
        let seen = sandbox.order().len();
        if seen > 0 && rng.bool() {
            eventually("somebody else runs, or nobody will", || {
                sandbox.order().len() > seen || sandbox.processes_in("mail").is_empty()
            });
        }
    }
}

/// Also when nobody does it by hand: who comes to its turn after them writes it down.
#[test]
fn whoever_passes_those_that_were_killed_records_that_once() {
    let sandbox = Sandbox::new();
    let latch = Latch::closed(&sandbox, "latch");
    latch_job(&sandbox, "mail", &latch).run().exits(0);
    latch.keeps(1);
    let runs: Vec<_> = (0..8).map(|_| sandbox.queued("mail", &noted(""))).collect();
    for killed in [2, 3, 5] {
        sandbox.kills(&runs[killed]);
    }
    latch.open();
    sandbox.ends(&runs[7], 0);
    let ledger = JobLedger::read(&sandbox, "mail");
    let mut stranded: Vec<_> =
        ledger.events("stranded").into_iter().map(|line| line["run"].as_u64().unwrap()).collect();
    stranded.sort_unstable();
    assert_eq!(stranded, [2, 3, 5].map(|at: usize| number(&runs[at])));
    for run in sandbox.listed_whole("mail") {
        let is_told = run["state"] == "stranded" && run["note"] == "its process was killed before its turn";
        assert!(is_told, "{run}");
    }
    let waited = sandbox.ends(&runs[2], 125);
    assert!(waited.stderr.contains("killed before its turn"), "{waited:?}");
    sandbox.queue(["resume"]).run().exits(0);
    sandbox.lane_empties("mail");
    assert_eq!(sandbox.order(), [0, 1, 4, 6, 7, 2, 3, 5].map(|at: usize| number(&runs[at])));
}

/// Between the record of its start and the removal of its file there is a moment in which a runner can be killed.
#[test]
fn what_has_started_is_not_run_again_by_resume_though_its_file_is_there() {
    let sandbox = Sandbox::new();
    let first = sandbox.queued("mail", &noted("exec sleep 60"));
    eventually("it runs", || sandbox.order() == [1]);
    sandbox.queue(["pause", "mail"]).run().exits(0);
    let second = sandbox.queued("mail", &noted(""));
    sandbox.kills_everything();
    let ledger = JobLedger::read(&sandbox, "mail");
    let ticket = ledger.events("queued")[0]["ticket"].as_u64().expect("a ticket");
    let kept = std::fs::read_dir(sandbox.jobs("mail.logs")).unwrap().map(|file| file.unwrap().path());
    let kept =
        kept.into_iter().find(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains("\"environment\"")));
    let leftover = sandbox.jobs(&format!("mail.queue/1-{ticket}.json"));
    std::fs::rename(kept.expect("what it was to do"), &leftover).unwrap();
    // (The kernel gives back the locks of who is killed a moment later.)
    eventually("nothing runs", || sandbox.listed("mail") == [(second.clone(), "stranded".to_owned())]);
    // It is known still, for who wants it again.
    let again = sandbox.queue(["retry", &first]).run();
    let again = again.exits(0).stdout.trim().to_owned();
    let resumed = sandbox.queue(["resume", "mail"]).run();
    let expected = format!(
        "{first}: was cut off while it ran; `triplock queue retry {first}` queues it again\n{second}: waits in its lane again\n"
    );
    assert_eq!(resumed.exits(0).stdout, expected);
    assert!(!leftover.exists());
    eventually("it runs again", || sandbox.order() == [1, 2, 3]);
    sandbox.triplock(["stop", "mail"]).for_people().run().exits(0);
    sandbox.ends(&again, 143);
    assert_eq!(sandbox.order(), [1, 2, 3]);
}
