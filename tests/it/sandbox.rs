//! A private state directory and a language for what happens in it:
//! `Sandbox::new().trip("1", 1).book("1", "7").succeeds()`.
//!
//! A process that fails a test is shown with its command line, stdout and stderr. No process outlives its test: each
//! is killed (by pidfd, so never a stranger) when its handle is dropped, or when it takes longer than [`PATIENCE`].

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::Write as _,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal},
};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use crate::{
    answer::Answer,
    gate::{Gate, exclusive, waiters},
};
use crate::{dispositions, turn::Turn};

pub(crate) const TRIPLOCK: &str = env!("CARGO_BIN_EXE_triplock");

/// Longer than any command of a test takes: a process that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// How the ledger is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The product's.
    TwoLocks,
    /// The plain one that it is compared with.
    OneLock,
}

/// A state directory of its own.
#[derive(Debug)]
pub(crate) struct Sandbox {
    program: PathBuf,
    state: PathBuf,
    protocol: Protocol,
    environment: Vec<(OsString, OsString)>,
    dir: TempDir,
    _turn: Arc<Turn>,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self::in_turn(&Arc::new(Turn::shared()))
    }

    /// One that has the machine to itself, for tests that measure time.
    pub(crate) fn alone() -> Self {
        Self::in_turn(&Arc::new(Turn::alone()))
    }

    /// One of several in a test that has its turn.
    pub(crate) fn in_turn(turn: &Arc<Turn>) -> Self {
        let dir = tempfile::Builder::new().prefix("triplock-test-").tempdir().expect("make a temporary directory");
        Self {
            program: TRIPLOCK.into(),
            state: dir.path().join("state"),
            protocol: Protocol::TwoLocks,
            environment: Vec::new(),
            dir,
            _turn: Arc::clone(turn),
        }
    }

    /// The same with its state somewhere else.
    pub(crate) fn with_state(mut self, state: impl Into<PathBuf>) -> Self {
        self.state = state.into();
        self
    }

    /// The same with a copy of the program that every user of the machine may run, wherever the build directory is.
    pub(crate) fn for_all_users(mut self) -> Self {
        self.program = self.path("triplock");
        // By another process: had we the file open for writing while another test forks, it could not be executed.
        let copied = Command::new("cp").arg(TRIPLOCK).arg(&self.program).status().expect("start cp");
        assert!(copied.success(), "copy the program");
        for path in [self.dir.path(), &self.program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        self
    }

    pub(crate) fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// The same with that server as its store.
    pub(crate) fn with_store(self, url: &str) -> Self {
        self.with_env("TRIPLOCK_STORE", url)
    }

    /// The same with a variable in the environment of its commands.
    pub(crate) fn with_env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The same with a trip.
    #[track_caller]
    pub(crate) fn trip(self, trip: &str, seats: u32) -> Self {
        self.add(trip, seats).succeeds();
        self
    }

    pub(crate) fn add(&self, trip: &str, seats: u32) -> Invocation {
        self.triplock(["trip", "add", trip, "--seats", &seats.to_string()])
    }

    pub(crate) fn book(&self, trip: &str, student: &str) -> Invocation {
        self.triplock(["book", trip, "--student", student])
    }

    pub(crate) fn cancel(&self, trip: &str, student: &str) -> Invocation {
        self.triplock(["cancel", trip, "--student", student])
    }

    pub(crate) fn show(&self, trip: &str) -> Invocation {
        self.triplock(["trip", "show", trip])
    }

    /// A triplock command that answers in JSON.
    pub(crate) fn triplock<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        let triplock = Invocation::of(&self.program).arg("--json").arg("--state-dir").arg(&self.state);
        let invocation = args.into_iter().fold(triplock, Invocation::arg);
        let environment = self.environment.clone();
        Invocation { one_lock: self.protocol == Protocol::OneLock, environment, ..invocation }
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.state
    }

    /// A file of the state directory's `trips/`.
    pub(crate) fn trips(&self, file: &str) -> PathBuf {
        self.state.join("trips").join(file)
    }

    /// A path in the sandbox that is not the state directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A closed gate: processes started through it wait until it is opened.
    pub(crate) fn gate(&self) -> Gate {
        let path = self.path("gate");
        Gate::closed(path)
    }

    /// Takes a trip's lock as a foreign process would; dropping the file releases it.
    pub(crate) fn hold_lock(&self, file: &str) -> File {
        exclusive(&self.trips(file))
    }

    /// Every file in `trips/` with its bytes.
    pub(crate) fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = self
            .files()
            .into_iter()
            .map(|name| {
                let bytes = fs::read(self.trips(&name)).expect("read a file of the state directory");
                (name, bytes)
            })
            .collect();
        files.sort();
        files
    }

    /// The names in `trips/`.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        fs::read_dir(self.state.join("trips"))
            .expect("list trips/")
            .map(|entry| entry.expect("list trips/").file_name().into_string().expect("triplock's names are ASCII"))
            .collect()
    }

    /// Fails when `trips/` holds anything that does not belong to trips at rest: of each the five files, and the one
    /// spare state file that is exchanged with the current one.
    #[track_caller]
    pub(crate) fn has_no_litter(&self) {
        let found = self.files();
        let of = |name: &str| name.rsplit_once('.').map(|(trip, suffix)| (trip.to_owned(), suffix.to_owned()));
        for name in &found {
            let Some((trip, suffix)) = of(name) else { panic!("litter: {name}") };
            let belongs = ["lock", "jsonl", "json", "sync", "idx", "new"].contains(&&*suffix);
            assert!(belongs && found.contains(&format!("{trip}.lock")), "litter: {name} among {found:?}");
            for needed in ["jsonl", "json"] {
                assert!(found.contains(&format!("{trip}.{needed}")), "no {trip}.{needed} among {found:?}");
            }
        }
    }
}

impl Drop for Sandbox {
    /// What a test's jobs have left running does not outlive the test.
    fn drop(&mut self) {
        crate::job::end_all(&self.state);
    }
}

/// A command that has not been started.
#[derive(Debug)]
#[must_use]
pub(crate) struct Invocation {
    program: OsString,
    before: Vec<OsString>,
    args: Vec<OsString>,
    one_lock: bool,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    stdout: Option<Stdio>,
}

impl Invocation {
    /// Any program, which gets nothing but what it is given.
    pub(crate) fn of(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            before: Vec::new(),
            args: Vec::new(),
            one_lock: false,
            environment: Vec::new(),
            directory: None,
            stdin: None,
            stdout: None,
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// The same that answers for people.
    pub(crate) fn in_text(mut self) -> Self {
        self.args.retain(|arg| arg != "--json");
        self
    }

    /// With a variable in its environment.
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub(crate) fn seats(self, seats: u32) -> Self {
        self.arg("--seats").arg(seats.to_string())
    }

    pub(crate) fn request(self, id: &str) -> Self {
        self.arg("--request-id").arg(id)
    }

    pub(crate) fn wait(self, seconds: &str) -> Self {
        self.arg("-w").arg(seconds)
    }

    /// Runs it as another command's command.
    pub(crate) fn under<S: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.before = wrapper.into_iter().map(|word| word.as_ref().to_owned()).chain(self.before).collect();
        self
    }

    /// Starts it so that it waits at the gate: the process is there already, and becomes triplock when the gate opens.
    pub(crate) fn through(self, gate: &Gate) -> Self {
        self.under([OsStr::new("flock"), OsStr::new("-sF"), gate.path().as_os_str()])
    }

    /// Has it speak to people instead of programs.
    pub(crate) fn for_people(mut self) -> Self {
        // (The command may be told so too.)
        self.args.retain({
            let mut first = true;
            move |arg| arg != "--json" || !std::mem::take(&mut first)
        });
        self
    }

    /// Starts it in that directory.
    pub(crate) fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// What a shell would be given to start it.
    pub(crate) fn words(&self) -> Vec<OsString> {
        self.before.iter().chain([&self.program]).chain(&self.args).cloned().collect()
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    pub(crate) fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.stdout = Some(to.into());
        self
    }

    #[track_caller]
    pub(crate) fn start(self) -> Running {
        let words = self.words();
        let mut command = dispositions::command(&words[0]);
        command.args(&words[1..]).stderr(Stdio::piped());
        for inherited in [
            "TRIPLOCK_STATE_DIR",
            "TRIPLOCK_HELD",
            "TRIPLOCK_CONFIG",
            "TRIPLOCK_STORE",
            "TRIPLOCK_STORE_PASSWORD",
            "TRIPLOCK_STORE_PASSWORD_FILE",
            "PGPASSWORD",
            "PGPASSFILE",
        ] {
            command.env_remove(inherited);
        }
        command.envs(self.environment);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        // cargo's; it would have the loader look for every library in a dozen places first.
        command.env_remove("LD_LIBRARY_PATH");
        // The test runner's own.
        command.env_remove("TRIPLOCK_SKIPS");
        command.stdout(self.stdout.unwrap_or_else(Stdio::piped));
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        if self.one_lock {
            command.env("TRIPLOCK_COMMIT", "one-lock");
        }
        let shown = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {shown}: {e}"));
        // Opened before anybody waits for the child, so the number still means it.
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .expect("pidfd_open of our own child");
        let id = child.id();
        let (tell, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), self.stdin) {
                // A child that does not read its input is judged by its answer.
                let _ = pipe.write_all(&bytes);
            }
            let output = child.wait_with_output();
            // Nobody listens any more when the handle was dropped.
            let _ = tell.send((output, started.elapsed()));
        });
        Running { shown, id, pidfd, ended }
    }

    #[track_caller]
    pub(crate) fn run(self) -> Finished {
        self.start().finish()
    }

    /// It exits 0; its answer.
    #[track_caller]
    pub(crate) fn succeeds(self) -> Answer {
        self.run().succeeds()
    }

    /// A `trip show` that tells how many seats are left.
    #[track_caller]
    pub(crate) fn shows_seats_left(self, seats_left: u64) {
        let finished = self.run();
        let shown: Value = serde_json::from_str(&finished.exits(0).stdout).expect("JSON");
        if shown["seats_left"] != seats_left {
            finished.complain(&format!("expected {seats_left} seats left"));
        }
    }

    /// It is refused by a rule, with that exit code; its answer.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> Answer {
        self.run().refused(code)
    }

    /// It fails with that exit code and one line on stderr; the error's JSON.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> Value {
        self.run().fails(code)
    }
}

/// A started process.
#[derive(Debug)]
pub(crate) struct Running {
    shown: String,
    id: u32,
    pidfd: OwnedFd,
    ended: mpsc::Receiver<(std::io::Result<Output>, Duration)>,
}

impl Running {
    /// Its process id: the program's own, also when it was started under another one that becomes it.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself: that is no error.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Kills it, and waits until it is gone; not for what it started, which may keep its output open.
    pub(crate) fn dies(self) {
        drop(self);
    }

    fn wait_until_gone(&self) {
        let patience = Timespec::try_from(PATIENCE).expect("short");
        let _ = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&patience));
    }

    #[track_caller]
    pub(crate) fn finish(self) -> Finished {
        let (output, took) = self.ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            self.kill();
            panic!("HANGS for {PATIENCE:?}: {}", self.shown)
        });
        let output = output.expect("wait for our own child");
        Finished {
            command: self.shown.clone(),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        // Gone before its directory is removed, or it would make a file there meanwhile.
        self.wait_until_gone();
    }
}

/// A process that ended.
#[derive(Debug)]
pub(crate) struct Finished {
    command: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Finished {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The answer that it gave, if it gave a whole one: a killed process may have done so before it died.
    pub(crate) fn answer(&self) -> Option<Answer> {
        let line = self.stdout.strip_suffix('\n')?;
        Some(serde_json::from_str(line).unwrap_or_else(|e| self.complain(&format!("no answer: {e}"))))
    }

    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &Self {
        if self.code() != Some(code) {
            self.complain(&format!("expected exit code {code}"));
        }
        self
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> Answer {
        self.exits(0).answer().unwrap_or_else(|| self.complain("expected an answer"))
    }

    #[track_caller]
    pub(crate) fn refused(&self, code: i32) -> Answer {
        self.exits(code).answer().unwrap_or_else(|| self.complain("expected an answer"))
    }

    #[track_caller]
    pub(crate) fn fails(&self, code: i32) -> Value {
        self.exits(code);
        if self.stderr.lines().count() != 1 || !self.stdout.is_empty() {
            self.complain("expected one line on stderr and nothing on stdout");
        }
        let error: Value = serde_json::from_str(&self.stderr).unwrap_or_else(|e| self.complain(&format!("{e}")));
        if error["format"] != 1 || error["exit_code"] != code || !error["error"].is_string() {
            self.complain("expected format, error and exit_code in the error");
        }
        let message = error["message"].as_str().unwrap_or_default();
        if message.is_empty() || message.matches("os error").count() > 1 {
            self.complain("expected a message that says it once");
        }
        error
    }

    #[track_caller]
    pub(crate) fn complain(&self, what: &str) -> ! {
        let Self { command, status, stdout, stderr, took } = self;
        panic!("{what}\ncommand: {command}\n{status} after {took:?}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

/// Waits for something to become true.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
