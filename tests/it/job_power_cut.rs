//! Power cuts while jobs run: whatever a run answered is in the ledger afterwards, and no fence that a command has seen
//! is ever given again.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{
    job_ledger::JobLedger,
    latch::{run, shell},
    machine,
    mount::{Disk, Kind},
    sandbox::{Finished, Sandbox, eventually},
};

const PROCESSES: usize = 12;
const JOBS: usize = 3;

/// What a run said before the power was gone.
#[derive(Debug)]
struct Answer {
    job: usize,
    run: u64,
    outcome: &'static str,
}

/// A run that had nothing to complain about, and so knows that its end is on disk.
fn answered(finished: &Finished, job: usize) -> Option<Answer> {
    let outcome = match finished.code() {
        Some(0) => "succeeded",
        Some(3) => "failed",
        _ => return None,
    };
    let run = finished.stdout.trim().parse().ok()?;
    finished.stderr.is_empty().then_some(Answer { job, run, outcome })
}

/// Runs jobs in all ways until the power is cut. The fences go to files on another disk, by name of the job.
fn run_until_cut(sandbox: &Sandbox, disk: &Disk, fences: &Path, answers: usize) -> Vec<Answer> {
    let cut = AtomicBool::new(false);
    let count = AtomicUsize::new(0);
    let given = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..PROCESSES {
            let (cut, count, given) = (&cut, &count, &given);
            scope.spawn(move || {
                for turn in 0.. {
                    let job = worker % JOBS;
                    let code = if turn % 3 == 0 { 3 } else { 0 };
                    let script = format!(
                        "echo $TRIPLOCK_FENCE >>'{}/{job}'; echo $TRIPLOCK_RUN_ID; exit {code}",
                        fences.display()
                    );
                    let finished = run(sandbox, &format!("j{job}"), "-w 60", shell(&script)).run();
                    let answer = answered(&finished, job);
                    if answer.is_none() && !cut.load(Ordering::SeqCst) {
                        finished.complain("no answer though the power was there");
                    }
                    count.fetch_add(usize::from(answer.is_some()), Ordering::SeqCst);
                    given.lock().unwrap().extend(answer);
                    if cut.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        eventually("there are enough answers", || count.load(Ordering::SeqCst) >= answers);
        cut.store(true, Ordering::SeqCst);
        disk.cut();
    });
    given.into_inner().unwrap()
}

fn power_cuts(kind: Kind, rounds: usize) {
    let test = format!("power cuts amid jobs on {kind:?}");
    if !machine::may_mount(&test) || !machine::has(&test, &[kind.mkfs(), "perl"]) {
        return;
    }
    let mut disk = Disk::new(kind);
    let sandbox = Sandbox::new().with_state(disk.point().join("state"));
    let fences = sandbox.path("fences");
    fs::create_dir(&fences).unwrap();
    let mut seen: BTreeMap<usize, u64> = BTreeMap::new();
    let mut answers = 0;
    for round in 0..rounds {
        let given = run_until_cut(&sandbox, &disk, &fences, fastrand::usize(1..60));
        answers += given.len();
        disk.remount();
        for job in 0..JOBS {
            let file = fences.join(job.to_string());
            let shown = fs::read_to_string(&file).unwrap_or_default();
            let shown: Vec<u64> = shown.lines().map(|line| line.parse().unwrap()).collect();
            // Under one lock, so in the order of the fences, those before the cut first.
            assert!(shown.windows(2).all(|pair| pair[0] < pair[1]), "round {round}: a fence came again: {shown:?}");
            seen.extend(shown.last().map(|last| (job, *last)));
            let name = format!("j{job}");
            run(&sandbox, &name, "-n", shell(&format!("echo $TRIPLOCK_FENCE >>'{}'", file.display()))).run().exits(0);
            // A torn end is no line; all others must be whole, and say what was answered.
            let (ledger, _) = JobLedger::read_torn(&sandbox, &name);
            ledger.judge();
            for answer in given.iter().filter(|answer| answer.job == job) {
                let at = ledger.position("ended", answer.run);
                let line = at.map(|at| &ledger.lines[at]);
                let line = line.unwrap_or_else(|| panic!("round {round}: an answered run was LOST: {answer:?}"));
                assert_eq!(line["outcome"], answer.outcome, "round {round}: {line}");
            }
            let after = fs::read_to_string(&file).unwrap();
            let after: u64 = after.lines().last().unwrap().parse().unwrap();
            assert!(seen.get(&job).is_none_or(|last| after > *last), "round {round}: {after} after {seen:?}");
        }
    }
    println!("{test}: {rounds} cuts, {answers} answers");
}

fn rounds() -> usize {
    machine::number("TRIPLOCK_POWER_CUT_ROUNDS", 10).div_ceil(2)
}

#[test]
fn every_run_that_answered_survives_power_cuts_on_ext4() {
    power_cuts(Kind::Ext4, rounds());
}

#[test]
fn every_run_that_answered_survives_power_cuts_on_xfs() {
    power_cuts(Kind::Xfs, rounds());
}
