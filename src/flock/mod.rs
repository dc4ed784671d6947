//! A drop-in flock(1): `triplock flock …`, and triplock called by the name `flock`.
//!
//! It takes the command line of util-linux 2.38 and gives its exit codes and messages, so a crontab changes by one word.
//! It locks what it is given: any file system, no second look at the path once the lock is there, no note in the file.
//! The command is a plain child (same process group, signals at their defaults, standard descriptors as they were), so Ctrl-C
//! and Ctrl-Z mean the same, and a TERM to this process alone ends it alone: the lock then lives on with the command,
//! which inherited the descriptor (not with `-o`).
//!
//! What differs from the original: `--job` records the run (see [`recorded`]); `--verbose` prints its lines when they are
//! true, where the original, writing to a file, does so at the very end, and with `-F` never; a standard descriptor that is
//! closed is /dev/null for the command, where the original may hand it the lock file; help and version are our own.
//!
//! It is in front of many small commands, so its cost is its start: no configuration, no state directory unless `--job`
//! asks, no thread, and the child is made without copying this process.

mod arguments;
mod locked;
mod message;
mod number;
mod recorded;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
    time::{Duration, Instant},
};

pub(crate) use arguments::State;
use arguments::{Asked, Request, Target};
use locked::{Locked, NotLocked, Opened};
use message::{Called, Failure};
use recorded::Ledger;

use crate::{
    name::Name,
    process::{Program, Spawn, SpawnError, Status},
};

/// What `--help` says, after the usage.
const HELP: &str = "
Takes the lock of a file or directory (a missing file is made), runs a command, and lets the lock go.
With the number of an open descriptor: takes the lock and leaves it with whoever opened that.

Options:
 -x, -e, --exclusive        a lock for one alone (default)
 -s, --shared               a lock for all who ask so
 -u, --unlock               let a lock go
 -n, --nb, --nonblock       do not wait: fail
 -w, --wait, --timeout <secs>   wait so many seconds (0.5 is fine), then fail; 0 means -n
 -E, --conflict-exit-code <number>   the exit code of such a failure (default 1)
 -o, --close                keep the descriptor from the command: the lock ends with this process
 -F, --no-fork              become the command
 -c, --command <command>    run one string with $SHELL or /bin/sh
     --verbose              tell what is being done
 -h, --help                 show this
 -V, --version              show the version

triplock's own, in full only:
     --job <name>           record the run, or that there was none, in the history of that job
     --state-dir <dir>      where that is kept
     --allow-network-fs     also on a network file system

Exit codes: the command's own, or 128 and the number of the signal that ended it; 1 (or -E) not locked;
64 usage, 65 not a lockable descriptor, 66 no such file, 69 the command cannot be executed, 71 system error,
73 the file cannot be made.
";

/// All of `--help`, of a program of that name.
pub(crate) fn help(name: &str) -> String {
    format!(
        "Usage:
 {name} [options] <file>|<directory> <command> [<argument>...]
 {name} [options] <file>|<directory> -c <command>
 {name} [options] <file descriptor number>
{HELP}"
    )
}

/// The file that such a command line locks, and the job that it is recorded for; `None` when it locks none.
pub(crate) fn locked_file(words: Vec<OsString>, state: State) -> Option<(OsString, Option<Name>, State)> {
    let Ok(Asked::Lock(request)) = arguments::parse(words, state.clone()) else { return None };
    let Target::File { path, .. } = request.target else { return None };
    let (job, state) = request.record.map_or((None, state), |record| (Some(record.job), record.state));
    Some((path, job, state))
}

/// Does what the words after the program's name ask for, and gives the exit code.
pub(crate) fn main(called: &OsStr, words: Vec<OsString>, state: State) -> u8 {
    let called = Called::new(called);
    let mut out = Out { failed: None };
    let code = match arguments::parse(words, state) {
        Ok(Asked::Help) => {
            out.print(&help(&String::from_utf8_lossy(called.short())));
            0
        }
        Ok(Asked::Version) => {
            let name = String::from_utf8_lossy(called.short());
            let version = env!("CARGO_PKG_VERSION");
            out.print(&format!("{name} from triplock {version} (as util-linux 2.38)\n"));
            0
        }
        Ok(Asked::Lock(request)) => match lock(called, &request, &mut out) {
            Ok(code) => code,
            Err(failure) => called.fail(&failure),
        },
        Err(failure) => called.fail(&failure),
    };
    match out.failed {
        None => code,
        Some(error) => called.fail(&Failure::new(1, &[b"write error: ", &message::words(&error)])),
    }
}

fn lock(called: Called, request: &Request, out: &mut Out) -> Result<u8, Failure> {
    let (opened, until) = match &request.target {
        Target::Descriptor(number) => {
            let until = locked::until(request.wait)?;
            (Opened::inherited(*number)?, until)
        }
        Target::File { path, .. } => {
            let opened = Opened::named(path, request.close)?;
            (opened, locked::until(request.wait)?)
        }
    };
    let ledger = match &request.record {
        Some(record) => Some(Ledger::open(record, &request.target, &opened, request.operation)?),
        None => None,
    };
    // Only who tells needs a clock, and the first look at it costs a few pages.
    let begin = (request.verbose || ledger.is_some()).then(Instant::now);
    let waited = || begin.map_or(Duration::ZERO, |begin| begin.elapsed());
    let locked = match opened.lock(request.operation, until) {
        Ok(locked) => locked,
        Err(NotLocked::Failed(failure)) => return Err(failure),
        Err(NotLocked::Held { timed_out }) => {
            if request.verbose {
                let message: &[u8] =
                    if timed_out { b"timeout while waiting to get lock" } else { b"failed to get lock" };
                called.warn(message);
            }
            if let Some(Err(failure)) = ledger.map(|ledger| ledger.not_run(waited())) {
                // That there is no lock is what the caller asks for.
                called.fail(&failure);
            }
            return Ok(request.conflict_exit_code);
        }
    };
    let waited = waited();
    if request.verbose {
        let name = String::from_utf8_lossy(called.short());
        out.print(&format!("{name}: getting lock took {}.{:06} seconds\n", waited.as_secs(), waited.subsec_micros()));
    }
    match &request.target {
        Target::Descriptor(_) => Ok(0),
        Target::File { command, .. } => run(called, request, command, &locked, ledger, waited, out),
    }
}

/// Runs the command under the lock.
fn run(
    called: Called,
    request: &Request,
    words: &[OsString],
    _held: &Locked,
    ledger: Option<Ledger>,
    waited: Duration,
    out: &mut Out,
) -> Result<u8, Failure> {
    if request.verbose {
        let name = String::from_utf8_lossy(called.short());
        out.print(&format!("{name}: executing {}\n", words[0].to_string_lossy()));
    }
    let program = Program::find(words).map_err(|e| not_started(words, &e))?;
    // The lock's descriptor it has or has not, as it was opened.
    let spawn = Spawn::plain(&program);
    if request.no_fork {
        return Err(not_started(words, &spawn.become_it()));
    }
    let recorded = ledger.map(|ledger| ledger.start(waited)).transpose()?;
    let ended = spawn.run();
    if let Some(recorded) = recorded {
        // The command has run: what came of it is what the caller asks for.
        if let Err(failure) = recorded.end(&ended) {
            called.fail(&failure);
        }
    }
    match ended {
        Ok(Ok(ended)) => Ok(match ended.status {
            Status::Exited(code) => code,
            Status::Killed(signal) => u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128)),
        }),
        Ok(Err(e)) => Err(Failure::new(message::SYSTEM, &[b"waitpid failed: ", &message::words(&e)])),
        Err(e) => Err(not_started(words, &e)),
    }
}

fn not_started(command: &[OsString], error: &SpawnError) -> Failure {
    match error {
        SpawnError::NotFound(e) | SpawnError::NotExecutable(e) => not_executed(command, e),
        SpawnError::Failed(e) => Failure::new(message::SYSTEM, &[b"fork failed: ", &message::words(e)]),
    }
}

fn not_executed(command: &[OsString], error: &io::Error) -> Failure {
    let code = match error.raw_os_error() {
        Some(libc::ENOMEM) => message::SYSTEM,
        _ => message::CANNOT_EXECUTE,
    };
    Failure::new(code, &[b"failed to execute ", command[0].as_bytes(), b": ", &message::words(error)])
}

/// Standard output. That it could not be written to is told at the end, when everything else is done.
struct Out {
    failed: Option<io::Error>,
}

impl Out {
    fn print(&mut self, text: &str) {
        let mut to = io::stdout().lock();
        if let Err(e) = to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
            // A closed pipe is a normal end.
            if e.kind() != io::ErrorKind::BrokenPipe {
                self.failed.get_or_insert(e);
            }
        }
    }
}
