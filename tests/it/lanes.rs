//! The language of lanes: `sandbox.queued("mail", "true")`, who stands where as the kernel tells (by code that is not the
//! product's), and jobs that write down when they run and whether they are alone.
//!
//! What stands in a lane is ended with its sandbox, also when the test panics: its processes have the state directory in their
//! command line or environment ([`crate::job::end_all`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::Value;

use crate::{
    job::is_alive,
    job_lines::JobLedger,
    sandbox::{Finished, Invocation, Sandbox, TRIPLOCK, eventually},
};

/// Below it the bytes of a lane are runs, from it on tickets.
const FRONT: u64 = 1 << 50;

/// Runs have smaller bytes; the others below the tickets say who waits for which.
const PROCESSES: u64 = 1 << 48;

/// A script that writes its run's number to `order`, and `overlap` besides when another that does so still runs. Killed, it is
/// over: it has no children but for the moment in which it asks for that lock.
pub(crate) fn noted(then: &str) -> String {
    format!("exec 9>>busy; flock -n 9 || echo overlap >>order; echo $TRIPLOCK_RUN_ID >>order; {then}")
}

impl Sandbox {
    /// `queue …`, answering people, in the sandbox's directory.
    pub(crate) fn queue<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Invocation {
        self.triplock(["queue"].into_iter().chain(words)).for_people().in_directory(self.path(""))
    }

    /// `queue add` of a shell script.
    pub(crate) fn adds(&self, lane: &str, options: &[&str], script: &str) -> Invocation {
        let add = ["add", lane].into_iter().chain(options.iter().copied());
        self.queue(add.chain(["--", "sh", "-c", script]))
    }

    /// Its run's id.
    #[track_caller]
    pub(crate) fn queued(&self, lane: &str, script: &str) -> String {
        self.queued_with(lane, &[], script)
    }

    #[track_caller]
    pub(crate) fn queued_with(&self, lane: &str, options: &[&str], script: &str) -> String {
        run_id(&self.adds(lane, options, script).run())
    }

    /// It is over, and `queue wait` exits so.
    #[track_caller]
    pub(crate) fn ends(&self, run: &str, code: i32) -> Finished {
        let finished = self.queue(["wait", run]).run();
        finished.exits(code);
        finished
    }

    /// What `queue list` says: each run and how it stands, in its order.
    #[track_caller]
    pub(crate) fn listed(&self, lane: &str) -> Vec<(String, String)> {
        let listed = self.listed_whole(lane);
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        listed.iter().map(|run| (text(&run["run"]), text(&run["state"]))).collect()
    }

    /// The same as JSON.
    #[track_caller]
    pub(crate) fn listed_whole(&self, lane: &str) -> Vec<Value> {
        let finished = self.triplock(["queue", "list", lane]).run();
        let lines = finished.exits(0).stdout.lines();
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// What `queue list` says of that run; nothing of one that is over.
    #[track_caller]
    pub(crate) fn stands(&self, run: &str) -> Option<String> {
        let lane = run.split_once('/').expect("a run id").0;
        self.listed(lane).into_iter().find(|(other, _)| other == run).map(|(_, state)| state)
    }

    /// What `order` says.
    pub(crate) fn order(&self) -> Vec<u64> {
        let text = fs::read_to_string(self.path("order")).unwrap_or_default();
        assert!(!text.contains("overlap"), "two ran at once: {text}");
        text.lines().map(|line| line.parse().unwrap_or_else(|e| panic!("{e}: {text}"))).collect()
    }

    /// Whether nobody stands or runs in that lane, as the kernel tells.
    pub(crate) fn is_empty_lane(&self, lane: &str) -> bool {
        holders(&self.lane_file(lane)).is_empty()
    }

    /// Waits for that.
    #[track_caller]
    pub(crate) fn lane_empties(&self, lane: &str) {
        eventually(&format!("lane {lane} is empty"), || self.is_empty_lane(lane));
    }

    pub(crate) fn lane_file(&self, lane: &str) -> PathBuf {
        self.jobs(&format!("{lane}.lane"))
    }

    /// The triplock process of a queued run, if it is there.
    pub(crate) fn process_of(&self, run: &str) -> Option<u32> {
        let (lane, number) = run.split_once('/').expect("a run id");
        self.processes_in(lane).remove(&number.parse().expect("a run id"))
    }

    /// The processes of all queued runs of a lane, by number. (Who waits or runs, not the guardian that a runner has: that is its
    /// child.)
    pub(crate) fn processes_in(&self, lane: &str) -> BTreeMap<u64, u32> {
        let mut of_runs = BTreeMap::<u64, Vec<u32>>::new();
        for (pid, bytes) in holders(&self.lane_file(lane)) {
            for run in bytes.into_iter().filter(|byte| *byte < PROCESSES && is_triplock(pid)) {
                of_runs.entry(run).or_default().push(pid);
            }
        }
        let eldest = |pids: Vec<u32>| pids.iter().copied().find(|pid| parent(*pid).is_none_or(|p| !pids.contains(&p)));
        of_runs.into_iter().filter_map(|(run, pids)| Some((run, eldest(pids)?))).collect()
    }

    /// How many stand in the lane in that file of the state directory.
    pub(crate) fn tickets(&self, lane_file: &str) -> usize {
        let holders = holders(&self.state_dir().join(lane_file));
        let tickets = holders.into_values().flatten().filter(|byte| *byte >= FRONT);
        tickets.collect::<BTreeSet<_>>().len()
    }

    /// Waits until so many stand there.
    #[track_caller]
    pub(crate) fn stand_in(&self, lane_file: &str, number: usize) {
        eventually(&format!("{number} stand in {lane_file}"), || self.tickets(lane_file) == number);
    }

    /// Sends a signal to a process that has that run's byte at this moment; whether it was sent.
    pub(crate) fn signal_run(&self, lane: &str, run: u64, pid: u32, signal: Signal) -> bool {
        let handle = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let handle = handle.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        let Some(handle) = handle else { return false };
        // Looked at once the handle means it: the number may have passed to a stranger before.
        let file = self.lane_file(lane);
        let Ok(inode) = fs::metadata(&file).map(|file| file.ino()) else { return false };
        bytes_of(pid, &file, inode).contains(&run) && rustix::process::pidfd_send_signal(&handle, signal).is_ok()
    }

    /// Kills the process of a queued run, and waits until it is gone.
    #[track_caller]
    pub(crate) fn kills(&self, run: &str) {
        let (lane, number) = run.split_once('/').expect("a run id");
        let number = number.parse().expect("a run id");
        let pid = self.process_of(run).unwrap_or_else(|| panic!("{run} has a process"));
        assert!(self.signal_run(lane, number, pid, Signal::KILL), "{run} has its process still");
        eventually("it is gone", || !is_alive(pid));
    }

    /// Kills all processes of the sandbox's lanes and jobs at once, as a power cut would.
    pub(crate) fn kills_everything(&self) {
        crate::job::end_all(self.state_dir());
        // The kernel gives back the locks of who is killed a moment later.
        let lanes = fs::read_dir(self.jobs("")).into_iter().flatten().map(|entry| entry.unwrap());
        let lanes = lanes.filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == "lane"));
        let inodes: Vec<_> = lanes.map(|entry| format!(":{} ", entry.metadata().unwrap().ino())).collect();
        eventually("nobody has a ticket any more", || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            !locks.lines().any(|line| line.contains(" OFDLCK ") && inodes.iter().any(|inode| line.contains(inode)))
        });
    }

    /// What the ledger says came of each run and non-run, by number; every line is whole, and a run has at most one start and one
    /// end.
    #[track_caller]
    pub(crate) fn fates(&self, lane: &str) -> BTreeMap<u64, String> {
        let ledger = JobLedger::read(self, lane);
        let mut fates = BTreeMap::new();
        let mut started = BTreeSet::new();
        for line in &ledger.lines {
            let run = line["run"].as_u64().expect("every line is about a run");
            let over = line["outcome"].as_str().filter(|_| line["again"] != true);
            match line["event"].as_str().expect("an event") {
                "started" if line["attempt"] == 1 => {
                    assert!(started.insert(run), "it started twice: {line}");
                    assert!(!fates.contains_key(&run), "it started after its end: {line}");
                }
                "ended" | "not_run" => {
                    let Some(over) = over else { continue };
                    assert_eq!(fates.insert(run, over.to_owned()), None, "it was over twice: {line}");
                }
                _ => {}
            }
        }
        fates
    }

    /// The numbers of the runs that the ledger says started, in that order.
    #[track_caller]
    pub(crate) fn starts(&self, lane: &str) -> Vec<u64> {
        let ledger = JobLedger::read_torn(self, lane).0;
        let first = ledger.events("started").into_iter().filter(|line| line["attempt"] == 1);
        first.map(|line| line["run"].as_u64().expect("a run")).collect()
    }
}

/// What `queue add` printed, which is a run id and nothing else; unless the lane is paused, which it says.
#[track_caller]
pub(crate) fn run_id(finished: &Finished) -> String {
    let run = finished.exits(0).stdout.strip_suffix('\n').unwrap_or_default();
    let is_id = run.split_once('/').is_some_and(|(_, number)| number.parse::<u64>().is_ok());
    let says = &finished.stderr;
    if !is_id || !(says.is_empty() || says.contains(" is paused; ") && says.lines().count() == 1) {
        finished.complain("expected a run id and nothing else");
    }
    run.to_owned()
}

/// The number in a run id.
pub(crate) fn number(run: &str) -> u64 {
    run.split_once('/').and_then(|(_, number)| number.parse().ok()).unwrap_or_else(|| panic!("{run} is a run id"))
}

/// Fails unless each is larger than the one before.
#[track_caller]
pub(crate) fn ascend(numbers: &[u64]) {
    assert!(numbers.is_sorted_by(|a, b| a < b), "out of order, or twice: {numbers:?}");
}

/// Which process has which bytes of that file locked.
fn holders(file: &Path) -> BTreeMap<u32, Vec<u64>> {
    let Ok(inode) = fs::metadata(file).map(|file| file.ino()) else { return BTreeMap::new() };
    let processes = fs::read_dir("/proc").expect("list /proc");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let bytes = pids.map(|pid| (pid, bytes_of(pid, file, inode)));
    bytes.filter(|(_, bytes)| !bytes.is_empty()).collect()
}

fn bytes_of(pid: u32, file: &Path, inode: u64) -> Vec<u64> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let of_file = descriptors.flatten().filter(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == file));
    let mut bytes = Vec::new();
    for descriptor in of_file {
        let number = descriptor.file_name();
        let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy())).unwrap_or_default();
        for line in text.lines().filter(|line| line.contains("OFDLCK") && line.contains("WRITE")) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [.., of, first, last] = fields[..] else { panic!("{line}") };
            if of.ends_with(&format!(":{inode}")) && first == last {
                bytes.push(first.parse().unwrap_or_else(|e| panic!("{e}: {line}")));
            }
        }
    }
    bytes.sort_unstable();
    bytes.dedup();
    bytes
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Whether that process is a triplock (and not what one has started).
fn is_triplock(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| {
        exe.to_string_lossy().trim_end_matches(" (deleted)") == TRIPLOCK
            || exe.file_name().is_some_and(|name| name == "triplock")
    })
}

/// Whether it watches a directory.
pub(crate) fn has_watch(pid: u32) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut targets = descriptors.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    targets.any(|target| target.to_string_lossy().contains("inotify"))
}
