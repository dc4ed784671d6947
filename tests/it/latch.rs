//! Jobs that run until the test lets them go, and `run` in short.
//!
//! Such a job sleeps in flock(2) for a file that the test holds. So the kernel tells when it runs and as which process,
//! nothing polls, and however the test ends, the job ends with it.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::PathBuf,
};

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::sandbox::{Invocation, Sandbox, eventually, waiters};

/// `triplock run JOB OPTIONS -- COMMAND`.
pub(crate) fn run<S: Into<OsString>>(
    sandbox: &Sandbox,
    job: &str,
    options: &str,
    command: impl IntoIterator<Item = S>,
) -> Invocation {
    let words = ["run", job].into_iter().chain(options.split_whitespace()).chain(["--"]).map(OsString::from);
    sandbox.triplock(words.chain(command.into_iter().map(Into::into)))
}

/// A shell command of a job.
pub(crate) fn shell(script: &str) -> [OsString; 3] {
    ["sh", "-c", script].map(OsString::from)
}

/// What jobs wait for.
#[derive(Debug)]
pub(crate) struct Latch {
    path: PathBuf,
    file: File,
}

impl Latch {
    // The tests play the foreign process, so they lock by themselves.
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn closed(sandbox: &Sandbox, name: &str) -> Self {
        let path = sandbox.path(name);
        let file = File::create(&path).expect("make the latch");
        fs2::FileExt::lock_exclusive(&file).expect("flock");
        Self { path, file }
    }

    /// A command that ends well when the latch is opened.
    pub(crate) fn command(&self) -> Vec<OsString> {
        self.after("")
    }

    /// The same, and TERM does not end it.
    pub(crate) fn stubborn(&self) -> Vec<OsString> {
        self.after("trap '' TERM;")
    }

    /// The same after a piece of shell. It keeps none of the test's pipes open: it may outlive its wrapper.
    pub(crate) fn after(&self, script: &str) -> Vec<OsString> {
        let script = format!("{script} exec flock -sF \"$0\" true >/dev/null 2>&1");
        shell(&script).into_iter().chain([self.path.clone().into()]).collect()
    }

    /// The processes that wait for it.
    pub(crate) fn jobs(&self) -> Vec<i32> {
        use std::os::unix::fs::MetadataExt as _;
        let inode = format!(":{} ", self.file.metadata().expect("stat an open file").ino());
        let locks = fs::read_to_string("/proc/locks").expect("read /proc/locks");
        let waiting = locks.lines().filter(|line| line.contains("-> FLOCK") && line.contains(&inode));
        waiting.map(|line| line.split_whitespace().nth(5).expect("a pid").parse().expect("a pid")).collect()
    }

    /// Returns when that many jobs run.
    #[track_caller]
    pub(crate) fn keeps(&self, jobs: usize) {
        eventually(&format!("{jobs} jobs run"), || waiters(&self.file) == jobs);
    }

    /// Lets them go.
    pub(crate) fn open(self) {
        drop(self.file);
    }
}

/// The process that is told apart by more than its number.
pub(crate) fn signal(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a process id");
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("it is there");
    rustix::process::pidfd_send_signal(&pidfd, signal).expect("it is ours");
}
