//! The language of jobs: `sandbox.sh("nightly", &["--time-limit", "1"], "sleep 100").exits(124)`, files and pipes by
//! which a job and its test wait for each other, and readers of the ledger and of /proc that share no code with the
//! product's.
//!
//! A job runs in the sandbox's directory, so its files have short names. Whatever it starts has the sandbox's state
//! directory in its environment (triplock exports it), and is known by that: the tests find it, and it is ended with
//! the sandbox.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    process::{Pid, PidfdFlags, Signal},
};
use serde_json::Value;

use crate::sandbox::{Finished, Invocation, Sandbox, eventually, waiters};

impl Sandbox {
    /// `run JOB [policy] -- COMMAND`, in the sandbox's directory.
    pub(crate) fn run(&self, job: &str, policy: &[&str], command: &[&str]) -> Invocation {
        let words = ["run", job].into_iter().chain(policy.iter().copied()).chain(["--"]).chain(command.iter().copied());
        self.triplock(words).for_people().in_directory(self.path(""))
    }

    /// The same of a shell script.
    pub(crate) fn sh(&self, job: &str, policy: &[&str], script: &str) -> Invocation {
        self.run(job, policy, &["sh", "-c", script])
    }

    /// A file of the state directory's `jobs/`.
    pub(crate) fn jobs(&self, file: &str) -> PathBuf {
        self.state_dir().join("jobs").join(file)
    }

    /// The job's ledger, line by line.
    #[track_caller]
    pub(crate) fn job_ledger(&self, job: &str) -> Vec<Value> {
        let path = self.jobs(&format!("{job}.jsonl"));
        let Ok(ledger) = fs::read_to_string(&path) else { return Vec::new() };
        // Without its newline it is being written at this moment.
        let whole = ledger.rfind('\n').map_or("", |end| &ledger[..end]);
        let line = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display()));
        whole.lines().map(line).collect()
    }

    /// Its lines of that event.
    #[track_caller]
    pub(crate) fn events(&self, job: &str, event: &str) -> Vec<Value> {
        self.job_ledger(job).into_iter().filter(|line| line["event"] == event).collect()
    }

    /// What came of each run and non-run, in the order in which they were over.
    #[track_caller]
    pub(crate) fn outcomes(&self, job: &str) -> Vec<String> {
        let over = |line: &Value| matches!(line["event"].as_str(), Some("ended" | "not_run")) && line["again"] != true;
        let outcome = |line: Value| line["outcome"].as_str().expect("an outcome").to_owned();
        self.job_ledger(job).into_iter().filter(over).map(outcome).collect()
    }

    /// Makes a pipe that a job waits at: `read x <NAME`.
    pub(crate) fn pipe(&self, name: &str) {
        let path = self.path(name);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("mkfifo");
        // Whatever the umask.
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o666)).expect("chmod");
    }

    /// Lets the job go on that waits at the pipe.
    #[track_caller]
    pub(crate) fn open_pipe(&self, name: &str) {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a small flag");
        let mut pipe = None;
        eventually("somebody reads the pipe", || {
            pipe = OpenOptions::new().write(true).custom_flags(flags).open(self.path(name)).ok();
            pipe.is_some()
        });
        pipe.expect("just opened").write_all(b"go\n").expect("write to the pipe");
    }

    /// Waits until the job has written a line to that file, and gives the whole file.
    #[track_caller]
    pub(crate) fn written(&self, name: &str) -> String {
        let mut text = String::new();
        eventually(&format!("{name} is written"), || {
            text = fs::read_to_string(self.path(name)).unwrap_or_default();
            text.ends_with('\n')
        });
        text
    }

    /// The process id that a job has written there.
    #[track_caller]
    pub(crate) fn pid_in(&self, name: &str) -> u32 {
        let text = self.written(name);
        text.trim().parse().unwrap_or_else(|e| panic!("{name}: {text:?}: {e}"))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// What the jobs have started and still runs, whatever its parent, group or session.
    pub(crate) fn processes(&self) -> BTreeSet<u32> {
        processes_of(self.state_dir())
    }

    /// Fails when anything that a job has started still runs.
    #[track_caller]
    pub(crate) fn nothing_runs(&self) {
        let left: Vec<_> = self.processes().into_iter().map(|pid| (pid, command_line(pid))).collect();
        assert!(left.is_empty(), "still running: {left:?}");
    }

    /// Whether somebody holds the lock of that file in `jobs/`, as the kernel tells.
    #[track_caller]
    pub(crate) fn is_locked(&self, file: &str) -> bool {
        let path = self.jobs(file);
        let inode = format!(":{} ", fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).ino());
        let look = || {
            let locks = fs::read_to_string("/proc/locks").expect("read /proc/locks");
            locks.lines().any(|line| line.contains("FLOCK") && !line.contains("->") && line.contains(&inode))
        };
        // One look may miss it: the kernel lists locks page by page, while others come and go.
        (0..5).any(|_| look())
    }

    /// Waits until that many sleep in flock(2) for that file in `jobs/`.
    #[track_caller]
    pub(crate) fn waits_for_lock(&self, file: &str, number: usize) {
        let path = self.jobs(file);
        let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        eventually(&format!("{number} wait for {}", path.display()), || waiters(&file) == number);
    }
}

impl Invocation {
    /// It exits so.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Finished {
        let finished = Invocation::run(self);
        finished.exits(code);
        finished
    }
}

impl Finished {
    /// It ended soon: it did not sit out one of the long waits of these tests (20 s and more).
    #[track_caller]
    pub(crate) fn soon(&self) -> &Self {
        if self.took > Duration::from_secs(15) {
            self.complain("it took too long");
        }
        self
    }
}

/// A process's state letter, as in `ps`; `None` when it is gone.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// What that process has started itself and still runs.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().map(|child| child.parse().expect("a process id")).collect()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// A line of /proc/PID/status.
#[track_caller]
pub(crate) fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).trim().to_owned()
}

/// What a process's descriptors mean.
#[track_caller]
pub(crate) fn descriptors(pid: u32) -> Vec<PathBuf> {
    let directory = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
    directory.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect()
}

pub(crate) fn command_line(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

impl Sandbox {
    /// Sends it to a process that a job has started, if that is still there.
    pub(crate) fn send(&self, pid: u32, signal: Signal) {
        send(pid, signal, |pid| has_mark(self.state_dir(), pid));
    }
}

fn send(pid: u32, signal: Signal, is_meant: impl Fn(u32) -> bool) {
    let handle = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
    let Some(Ok(handle)) = handle else { return };
    // Looked at once the handle means it: the number may have passed to a stranger before.
    if is_meant(pid) {
        // It may have ended meanwhile.
        let _ = rustix::process::pidfd_send_signal(&handle, signal);
    }
}

/// Ends whatever the jobs of that state directory have left running, and whoever was told on its command line to use it:
/// a triplock whose tracer or wrapper was killed lives on, and would sit out its waits without anybody.
pub(crate) fn end_all(state: &Path) {
    // (A sandbox without jobs has nothing to look for.)
    if !state.join("jobs").exists() {
        return;
    }
    for _ in 0..1000 {
        let left = processes_that(|pid| belongs_to(state, pid));
        if left.is_empty() {
            return;
        }
        for pid in left {
            send(pid, Signal::KILL, |pid| belongs_to(state, pid));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn processes_of(state: &Path) -> BTreeSet<u32> {
    processes_that(|pid| has_mark(state, pid))
}

fn processes_that(is_meant: impl Fn(u32) -> bool) -> BTreeSet<u32> {
    let processes = fs::read_dir("/proc").expect("list /proc");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_meant(*pid)).collect()
}

/// Whether a job of that state directory started it, or its command line names the directory.
fn belongs_to(state: &Path, pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|byte| *byte == 0).any(|argument| argument == state.as_os_str().as_bytes()) || has_mark(state, pid)
}

fn has_mark(state: &Path, pid: u32) -> bool {
    let look = || fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut environment = look();
    // In the middle of its exec(2) a process has none. (Zombies and kernel threads have no program either.)
    for _ in 0..20 {
        if !environment.is_empty() || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        environment = look();
    }
    let named = |variable: &[u8]| variable.strip_prefix(b"TRIPLOCK_STATE_DIR=").is_some_and(|dir| is(state, dir));
    environment.split(|byte| *byte == 0).any(named)
}

/// Whether it is that path, as it was given or without its symbolic links.
fn is(path: &Path, bytes: &[u8]) -> bool {
    path.as_os_str().as_bytes() == bytes || path.canonicalize().is_ok_and(|path| path.as_os_str().as_bytes() == bytes)
}
