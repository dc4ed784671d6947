//! The filter's run: from its start to its end, whoever ends it.

use std::{ffi::OsString, fmt, fs::File, io, os::fd::AsFd as _, time::Duration};

use super::{fresh::Fresh, leased::Leased, target::Source};
use crate::{
    error::{Error, Result},
    exit::ExitCode,
    job::{Attempt, Broken, Cause, LateSync, Lifeline, Options, Supervisor, signal},
    lock::FileGuard,
    process::{self, Cgroup, Program, Signals, Spawn, Status, Tree},
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
    /// Its lease on a server was lost: somebody else may have updated the file since.
    LeaseLost,
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
            Self::LeaseLost => ExitCode::LockLost.code(),
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
            Self::LeaseLost => f.write_str("lost its lease"),
            Self::NotFound => f.write_str("was not found"),
            Self::NotExecutable(why) => write!(f, "cannot be executed: {why}"),
        }
    }
}

impl Filter<'_> {
    /// Runs it, holding what keeps others from updating the same file. It inherits the lock, so that nobody else of this
    /// machine starts while it runs, should we be killed.
    pub(super) fn run(
        &self,
        source: Option<&Source>,
        fresh: &Fresh,
        lock: &FileGuard,
        leased: Option<&Leased>,
    ) -> Result<FilterEnd> {
        let failed = |e| Error::io("run", &self.command[0], e);
        let program = match Program::find(self.command) {
            Ok(program) => program,
            Err(error) => return not_started(error.into()).map_err(failed),
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
        process::become_subreaper().map_err(failed)?;
        let mut attempt = |lifeline: Option<&mut Lifeline>| {
            // Without it, a descendant that leaves the group is found by sweeps.
            let wants_a_group = self.time_limit.is_some() || lifeline.is_some();
            let cgroup = if wants_a_group { Cgroup::try_make("update") } else { None };
            let spawn = Spawn {
                program: &program,
                environment: &self.environment,
                stdin: Some(input),
                stdout: Some(fresh.output()),
                stderr: None,
                inherit: &[lock.descriptor()],
                own_group: !foreground,
                dies_with_us: lifeline.is_some(),
                cgroup: cgroup.as_ref().map(Cgroup::as_fd),
                mask: Some(signals.before()),
            };
            let started = std::time::Instant::now();
            let child = spawn.start()?;
            let mut tree = Tree::new(child, !foreground, cgroup);
            let options =
                Options { time_limit: self.time_limit, kill_after: Some(self.kill_after), ..Options::default() };
            // A filter is no run.
            let mut recorded = LateSync::default();
            let supervisor = Supervisor {
                options: &options,
                signals: &signals,
                log: None,
                foreground,
                recorded: &mut recorded,
                started,
                lifeline,
            };
            supervisor.watch(&mut tree).map_err(|e| {
                // Nobody would watch over it.
                let survivors = tree.kill_all().unwrap_or_default();
                Broken::Unwatched(e.to_string(), survivors.iter().map(ToString::to_string).collect())
            })
        };
        let carried = match leased {
            Some(leased) => leased.carry_out(&signals, &mut attempt),
            None => attempt(None),
        };
        match carried {
            Ok(attempt) => Ok(judge(&attempt)),
            Err(broken) => not_started(broken).map_err(failed),
        }
    }
}

fn judge(attempt: &Attempt) -> FilterEnd {
    let by_kill = attempt.ended.status == Status::Killed(libc::SIGKILL);
    match (attempt.cause, attempt.ended.status) {
        (Some(Cause::TimeLimit), _) => FilterEnd::TimeLimit { by_kill },
        (Some(Cause::LeaseLost), _) => FilterEnd::LeaseLost,
        (Some(Cause::Signal(signal)), _) => FilterEnd::Stopped(signal),
        // Ctrl-C reached it too; one that handles that and exits 0 has not read all there was.
        (Some(Cause::Interrupt), Status::Exited(0)) => FilterEnd::Stopped(libc::SIGINT),
        (_, Status::Exited(0)) => FilterEnd::Succeeded,
        (_, Status::Exited(code)) => FilterEnd::Exited(code),
        (_, Status::Killed(signal)) => FilterEnd::Killed(signal),
    }
}

fn not_started(broken: Broken) -> io::Result<FilterEnd> {
    match broken {
        Broken::NotFound => Ok(FilterEnd::NotFound),
        Broken::NotExecutable(why) => Ok(FilterEnd::NotExecutable(why)),
        Broken::LeaseLost(_) => Ok(FilterEnd::LeaseLost),
        Broken::NotStarted(why) | Broken::Unwatched(why, _) => Err(io::Error::other(why)),
    }
}
