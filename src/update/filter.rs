//! The filter's run: from its start to its end, whoever ends it.

use std::{ffi::OsString, fmt, fs::File, io, os::fd::AsFd as _, time::Duration};

use super::{fresh::Fresh, target::Source};
use crate::{
    error::{Error, Result},
    exit::ExitCode,
    job::{Attempt, Cause, LateSync, Options, Supervisor, signal},
    lock::FileGuard,
    process::{self, Cgroup, Program, Signals, Spawn, SpawnError, Status, Tree},
};

/// What is to be run, and how long it may take.
pub(super) struct Filter<'a> {
    pub(super) command: &'a [OsString],
    pub(super) environment: Vec<(OsString, Option<OsString>)>,
    pub(super) time_limit: Option<Duration>,
    pub(super) kill_after: Duration,
}

/// How the filter ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FilterEnd {
    /// By itself, with 0: the only end after which the file is replaced.
    Succeeded,
    /// By itself, with another exit code.
    Exited(u8),
    /// By a signal that we did not send.
    Killed(i32),
    /// We passed that signal on to it. However it ended then: it may not have got to the end of its input.
    Stopped(i32),
    /// Its time was up; whether it took KILL.
    TimeLimit { by_kill: bool },
    /// It did not start: there is no such command.
    NotFound,
    /// It did not start: it cannot be executed, and why.
    NotExecutable(String),
}

impl FilterEnd {
    /// As timeout(1) and env(1) say it.
    pub(crate) fn exit_code(&self) -> u8 {
        let of_signal = |signal: i32| u8::try_from(128 + signal).unwrap_or(u8::MAX);
        match self {
            Self::Succeeded => ExitCode::Success.code(),
            Self::Exited(code) => *code,
            Self::Killed(signal) | Self::Stopped(signal) => of_signal(*signal),
            Self::TimeLimit { by_kill: false } => ExitCode::TimeLimit.code(),
            Self::TimeLimit { by_kill: true } => of_signal(libc::SIGKILL),
            Self::NotFound => ExitCode::NoSuchCommand.code(),
            Self::NotExecutable(_) => ExitCode::NotExecutable.code(),
        }
    }
}

impl fmt::Display for FilterEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::Exited(code) => write!(f, "exited with {code}"),
            Self::Killed(signal) => write!(f, "was ended by {}", signal::name(*signal)),
            Self::Stopped(signal) => write!(f, "was stopped by {}", signal::name(*signal)),
            Self::TimeLimit { .. } => f.write_str("reached its time limit"),
            Self::NotFound => f.write_str("was not found"),
            Self::NotExecutable(why) => write!(f, "cannot be executed: {why}"),
        }
    }
}

impl Filter<'_> {
    /// Runs it. It inherits the lock, so that nobody else starts while it runs, should we be killed.
    pub(super) fn run(&self, source: Option<&Source>, fresh: &Fresh, lock: &FileGuard) -> Result<FilterEnd> {
        let failed = |e| Error::io("run", &self.command[0], e);
        let program = match Program::find(self.command) {
            Ok(program) => program,
            Err(error) => return not_started(error).map_err(failed),
        };
        let nothing;
        let input = match source {
            Some(source) => source.file.as_fd(),
            None => {
                nothing = File::open("/dev/null").map_err(|e| Error::io("open", "/dev/null", e))?;
                nothing.as_fd()
            }
        };
        let signals = Signals::take().map_err(failed)?;
        let foreground = process::in_foreground();
        // Without it, a descendant that leaves the group is found by sweeps.
        let cgroup = self.time_limit.and_then(|_| Cgroup::try_make("update"));
        process::become_subreaper().map_err(failed)?;
        let spawn = Spawn {
            program: &program,
            environment: &self.environment,
            stdin: Some(input),
            stdout: Some(fresh.output()),
            stderr: None,
            inherit: &[lock.descriptor()],
            own_group: !foreground,
            cgroup: cgroup.as_ref().map(Cgroup::as_fd),
            mask: Some(signals.before()),
        };
        let started = std::time::Instant::now();
        let child = match spawn.start() {
            Ok(child) => child,
            Err(error) => return not_started(error).map_err(failed),
        };
        let mut tree = Tree::new(child, !foreground, cgroup);
        let options = Options { time_limit: self.time_limit, kill_after: Some(self.kill_after), ..Options::default() };
        // A filter is no run.
        let mut recorded = LateSync::default();
        let supervisor = Supervisor {
            options: &options,
            signals: &signals,
            log: None,
            foreground,
            recorded: &mut recorded,
            started,
            lifeline: None,
        };
        let attempt = supervisor.watch(&mut tree).inspect_err(|_| {
            // Nobody would watch over it.
            let _ = tree.kill_all();
        });
        Ok(judge(&attempt.map_err(failed)?))
    }
}

fn judge(attempt: &Attempt) -> FilterEnd {
    let by_kill = attempt.ended.status == Status::Killed(libc::SIGKILL);
    match (attempt.cause, attempt.ended.status) {
        (Some(Cause::TimeLimit), _) => FilterEnd::TimeLimit { by_kill },
        // (A filter has no lease.)
        (Some(Cause::LeaseLost), _) => FilterEnd::Stopped(libc::SIGTERM),
        (Some(Cause::Signal(signal)), _) => FilterEnd::Stopped(signal),
        // Ctrl-C reached it too; one that handles that and exits 0 has not read all there was.
        (Some(Cause::Interrupt), Status::Exited(0)) => FilterEnd::Stopped(libc::SIGINT),
        (_, Status::Exited(0)) => FilterEnd::Succeeded,
        (_, Status::Exited(code)) => FilterEnd::Exited(code),
        (_, Status::Killed(signal)) => FilterEnd::Killed(signal),
    }
}

fn not_started(error: SpawnError) -> io::Result<FilterEnd> {
    match error {
        SpawnError::NotFound(_) => Ok(FilterEnd::NotFound),
        SpawnError::NotExecutable(error) => Ok(FilterEnd::NotExecutable(error.to_string())),
        SpawnError::Failed(error) => Err(error),
    }
}
