//! Power cuts while jobs run: whatever a run answered is in the ledger afterwards, and no fence that a command has seen
//! is ever given again.
//!
//! Here a process outlives the cut, and an fdatasync that was under way returns 0 for what never reached the disk. No
//! process is there to be told so after a real cut. So what counts as said before the cut is followed by a write that
//! only a file system with power takes.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{
    job_lines::JobLedger,
    latch::{run, shell},
    machine,
    mount::{Disk, Kind},
    sandbox::{Finished, Sandbox, eventually},
    strace,
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
                    let probe = disk.point().join(format!("probe{worker}"));
                    let script = format!(
                        "echo >'{}' || exit 9; echo $TRIPLOCK_FENCE >>'{}/{job}'; echo $TRIPLOCK_RUN_ID; exit {code}",
                        probe.display(),
                        fences.display()
                    );
                    let finished = run(sandbox, &format!("j{job}"), "-w 60", shell(&script)).run();
                    // As the kernel may at any time: the mark is on disk more often than it need be.
                    let commit = fs::File::open(sandbox.state_dir().join(format!("jobs/j{job}.commit")));
                    let _ = commit.and_then(|commit| commit.sync_data());
                    let has_power = fs::write(&probe, "").is_ok();
                    let answer = answered(&finished, job).filter(|_| has_power);
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

fn show(to: &Path) -> [OsString; 3] {
    shell(&format!("echo $TRIPLOCK_FENCE >'{}'", to.display()))
}

/// Cuts the power while a command runs that has shown its fence, and whose start has not reached the disk unless it did
/// so before the command started: syncs take 2 seconds. Gives the fence.
fn cut_after_showing(sandbox: &Sandbox, disk: &Disk, shown: &Path) -> u64 {
    fs::write(shown, "").unwrap();
    let slow = strace::tracing(&sandbox.path("trace"), &["-e", "inject=fdatasync:delay_enter=2000000"]);
    let running = run(sandbox, "j", "", show(shown)).under(slow).start();
    let fence = || fs::read_to_string(shown).unwrap().trim().parse::<u64>().ok();
    eventually("a fence is shown", || fence().is_some());
    let fence = fence().unwrap();
    disk.cut();
    running.finish();
    fence
}

/// Writes that file of the job to the disk, as the kernel may at any time.
fn write_back(sandbox: &Sandbox, name: &str) {
    let file = fs::File::open(sandbox.state_dir().join("jobs").join(name)).unwrap();
    file.sync_all().unwrap();
}

fn cuts_between_fence_and_sync(kind: Kind) {
    let test = format!("a cut between fence and sync on {kind:?}");
    if !machine::may_mount(&test) || !machine::has(&test, &[kind.mkfs(), "perl"]) || !machine::may_trace(&test) {
        return;
    }
    let mut disk = Disk::new(kind);
    let sandbox = Sandbox::new().with_state(disk.point().join("state"));
    let shown = sandbox.path("shown");
    // The first run reserves its fence, and that was on disk before the fence was shown.
    let mut fences = vec![cut_after_showing(&sandbox, &disk, &shown)];
    disk.remount();
    // After a mark in every state that a cut can leave it in.
    for on_disk in ["j.commit", "j.jsonl", "j.lock"].map(Some).into_iter().chain([None]) {
        run(&sandbox, "j", "", show(&shown)).run().exits(0);
        fences.push(fs::read_to_string(&shown).unwrap().trim().parse().unwrap());
        if let Some(on_disk) = on_disk {
            write_back(&sandbox, on_disk);
        }
        let last = JobLedger::read_torn(&sandbox, "j").0.lines.len();
        fences.push(cut_after_showing(&sandbox, &disk, &shown));
        disk.remount();
        let left = JobLedger::read_torn(&sandbox, "j").0.lines.len();
        // Else nothing was at stake. (Where the kernel cannot tell mounts apart, starts are synced as ever.)
        if crate::job_order::unique_mount_ids(&test) {
            assert_eq!(left, last, "the start was on disk");
        }
    }
    fences.push(cut_after_showing(&sandbox, &disk, &shown));
    disk.remount();
    assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "a fence came again: {fences:?}");
}

#[test]
fn a_cut_between_fence_and_sync_repeats_no_fence_on_ext4() {
    cuts_between_fence_and_sync(Kind::Ext4);
}

#[test]
fn a_cut_between_fence_and_sync_repeats_no_fence_on_xfs() {
    cuts_between_fence_and_sync(Kind::Xfs);
}
