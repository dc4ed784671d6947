//! Ending every descendant of a process, one by one: see [`super::tree`] for what that can promise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use super::{
    handle::Handle,
    table::{ProcessInfo, descendants},
    wait_for,
};

/// How many sweeps send KILL at once. Whatever is found after those forks faster than we look.
const DIRECT_SWEEPS: u32 = 3;
/// How many times everybody is stopped before KILL is sent, at most.
const STOPS: u32 = 100;
/// How long a process may take to die of KILL. (One that waits for a dead disk or server may take for ever.)
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How many looks in a row must find nobody, when nothing better than looking tells.
const CLEAN_LOOKS: u32 = 2;
/// The same when the kernel says that somebody is there.
const DOUBTFUL_LOOKS: u32 = 20;

/// A process that could not be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Survivor {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) why: String,
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({}): {}", self.pid, self.name, self.why)
    }
}

/// A process for ever: pid and start.
type Key = (u32, u64);

fn key(process: &ProcessInfo) -> Key {
    (process.pid, process.start_ticks)
}

/// The end of all descendants of one process.
pub(super) struct Sweep<'a> {
    root: u32,
    /// Neither these nor their descendants.
    spared: &'a [ProcessInfo],
    /// When each was first sent KILL.
    killed: BTreeMap<Key, Instant>,
    survivors: BTreeMap<Key, Survivor>,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(root: u32, spared: &'a [ProcessInfo]) -> Self {
        Self { root, spared, killed: BTreeMap::new(), survivors: BTreeMap::new() }
    }

    /// Sweeps until nobody is left to be killed. `is_over` knows something better than looking: whether there can be no
    /// descendant any more (`Some(true)`), whether there must be one (`Some(false)`).
    pub(super) fn run(mut self, mut is_over: impl FnMut() -> io::Result<Option<bool>>) -> io::Result<Vec<Survivor>> {
        let (mut sweeps, mut clean) = (0, 0);
        loop {
            let known = is_over()?;
            if known == Some(true) {
                // Who was given up on has died after all.
                return Ok(Vec::new());
            }
            let mut targets = self.targets()?;
            // The root's number means the root only if that has not ended: else these are a stranger's.
            if is_over()? == Some(true) {
                return Ok(Vec::new());
            }
            if targets.is_empty() {
                clean += 1;
                let explained = known.is_none() || !self.survivors.is_empty() || !self.spared.is_empty();
                if clean >= if explained { CLEAN_LOOKS } else { DOUBTFUL_LOOKS } {
                    if explained {
                        return Ok(self.survivors.into_values().collect());
                    }
                    return Err(io::Error::other(
                        "a descendant is left that /proc does not show (is it mounted with hidepid?)",
                    ));
                }
                // Somebody may just be between two forms: wait for the kernel, not for a guess, where there is a choice.
                std::thread::sleep(Duration::from_millis(u64::from(clean)));
                continue;
            }
            clean = 0;
            sweeps += 1;
            if sweeps > DIRECT_SWEEPS {
                targets = self.stop_all(targets, &mut is_over)?;
            }
            let last = self.send_all(&targets, libc::SIGKILL)?;
            if let Some(last) = last {
                wait_for(&mut [PollFd::new(&last, PollFlags::IN)], Some(Duration::from_millis(50)))?;
            }
        }
    }

    /// Who is to be ended: alive, and not given up on.
    fn targets(&mut self) -> io::Result<Vec<ProcessInfo>> {
        let mut targets = living(self.root, self.spared)?;
        targets.retain(|process| {
            let key = key(process);
            if self.killed.get(&key).is_some_and(|since| since.elapsed() > PATIENCE) {
                let why = format!("does not die of KILL (state {})", process.state);
                self.survivors.entry(key).or_insert(Survivor { pid: process.pid, name: process.name.clone(), why });
            }
            !self.survivors.contains_key(&key)
        });
        Ok(targets)
    }

    /// Stops everybody until nobody runs who could fork: a stopped process still counts against the limits that hold
    /// a fork bomb, a killed one makes room for the next.
    fn stop_all(
        &mut self,
        mut targets: Vec<ProcessInfo>,
        is_over: &mut impl FnMut() -> io::Result<Option<bool>>,
    ) -> io::Result<Vec<ProcessInfo>> {
        for _ in 0..STOPS {
            let running: Vec<_> =
                targets.iter().filter(|process| !matches!(process.state, 'T' | 't')).cloned().collect();
            if running.is_empty() {
                break;
            }
            self.send_all(&running, libc::SIGSTOP)?;
            targets = self.targets()?;
            if is_over()? == Some(true) {
                return Ok(Vec::new());
            }
        }
        Ok(targets)
    }

    /// Signals each, and gives the last that it reached.
    fn send_all(&mut self, targets: &[ProcessInfo], signal: i32) -> io::Result<Option<Handle>> {
        let mut last = None;
        for process in targets {
            // What was a descendant stays one until it ends: an orphan goes to the nearest subreaper above it. So the
            // same pid with the same start is still the one that is meant.
            let Some(handle) = Handle::open_known(process.clone())? else { continue };
            match handle.send(signal) {
                Ok(true) => {
                    if signal == libc::SIGKILL {
                        self.killed.entry(key(process)).or_insert_with(Instant::now);
                    }
                    last = Some(handle);
                }
                Ok(false) => {}
                Err(e) => {
                    let survivor = Survivor { pid: process.pid, name: process.name.clone(), why: e.to_string() };
                    self.survivors.insert(key(process), survivor);
                }
            }
        }
        Ok(last)
    }
}

/// The living descendants of a process, without those spared and theirs.
pub(super) fn living(root: u32, spared: &[ProcessInfo]) -> io::Result<Vec<ProcessInfo>> {
    let mut found = descendants(root)?;
    if !spared.is_empty() {
        // Parents come before their children.
        let mut below = BTreeSet::new();
        found.retain(|process| {
            let is_spared = spared.iter().any(|spared| key(spared) == key(process)) || below.contains(&process.parent);
            if is_spared {
                below.insert(process.pid);
            }
            !is_spared
        });
    }
    found.retain(ProcessInfo::is_alive);
    Ok(found)
}
