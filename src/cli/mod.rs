//! The command line: what can be said, and nothing of what it does.

mod check;
mod completions;
mod flock;
mod history;
mod install;
mod logs;
mod man;
mod plain;
mod queue;
pub(crate) mod run;
mod status;
mod update;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    Args, FromArgMatches as _, Parser, Subcommand, ValueEnum, ValueHint,
    builder::{PossibleValuesParser, TypedValueParser},
};

pub(crate) use check::Check;
pub(crate) use completions::{Completions, Shell};
pub(crate) use flock::Flock;
pub(crate) use history::History;
pub(crate) use install::{Install, Scheduler, Scope as InstallScope, Uninstall};
pub(crate) use logs::Logs;
pub(crate) use man::Man;
pub(crate) use queue::{Queue, QueueAdd, QueuedProcess, Target};
pub(crate) use run::{Run, Stop};
pub(crate) use status::Status;
pub(crate) use update::Update;

use crate::{
    duration::parse as duration,
    name::{Name, RequestId, Student},
    race::{Delay, LockKind, Place},
    store::StoreChoice,
};

/// Locks for bookings and jobs that separate processes share.
#[derive(Debug, Parser)]
#[command(name = "triplock", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 3 sold out, 4 refused, 75 busy, 74 outcome uncertain; \
`triplock --help` has them all.")]
#[command(after_long_help = exit_codes())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// This process's command line.
    pub(crate) fn from_arguments() -> Result<Self, clap::Error> {
        if let Some(cli) = plain::parse(std::env::args_os().skip(1)) {
            return Ok(cli);
        }
        let arguments: Vec<_> = std::env::args_os().collect();
        match arguments.as_slice() {
            [_, flag] if flag == "--version" || flag == "-V" => Err(version(&arguments)),
            _ => Self::narrow(&arguments).map_or_else(Self::try_parse, Ok),
        }
    }

    /// The command line of another process; its first word is the program.
    pub(crate) fn of(arguments: &[String]) -> Result<Self, clap::Error> {
        Self::try_parse_from(arguments)
    }

    /// What the arguments mean to a parser that knows the global options and the one subcommand that is named. The whole
    /// one clones every global option into every subcommand, which is a third of a start. What is not understood here
    /// is left to the whole one, whose errors and help are the only ones.
    fn narrow(arguments: &[OsString]) -> Option<Self> {
        let whole = Command::augment_subcommands(clap::Command::new("triplock"));
        let named = arguments.iter().skip(1).find_map(|word| whole.find_subcommand(word))?.clone();
        let narrow = Global::augment_args(clap::Command::new("triplock").subcommand(named).disable_help_flag(true));
        let matches = narrow.try_get_matches_from(arguments).ok()?;
        Self::from_arg_matches(&matches).ok()
    }
}

/// The version, which is nothing that a subcommand could change.
fn version(arguments: &[OsString]) -> clap::Error {
    let command = clap::Command::new("triplock").version(env!("CARGO_PKG_VERSION"));
    command.try_get_matches_from(arguments).expect_err("the version ends the parsing")
}

impl Cli {
    /// Whether there is a subcommand of that name.
    pub(crate) fn has(subcommand: &str) -> bool {
        <Command as Subcommand>::has_subcommand(subcommand)
    }
}

fn exit_codes() -> String {
    format!("Exit codes:\n{}", crate::exit::ExitCode::table())
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where state and locks are kept [default: `$TRIPLOCK_STATE_DIR`, else `state_dir` of
    /// ~/.config/triplock/config.toml or /etc/triplock/config.toml, else /var/lib/triplock for root, else
    /// `$XDG_STATE_HOME/triplock`, else ~/.local/state/triplock].
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Where trips, jobs and their locks are instead, for many hosts: `redis://HOST`, `rediss://HOST`,
    /// `postgres://HOST/DATABASE`; `files` is the state directory [default: `$TRIPLOCK_STORE`, else `store` of config.toml,
    /// else `files`]. A password does not belong here: see docs/scaling.md. `race` takes several.
    #[arg(long, global = true, value_name = "URL", value_parser = StoreChoice::from_argument)]
    pub(crate) store: Vec<StoreChoice>,
    /// Accept a state directory on a network or unknown file system, where locks may not be seen by other hosts.
    #[arg(long, global = true)]
    pub(crate) allow_network_fs: bool,
    /// Answer in JSON (JSON Lines for lists) on stdout, errors in JSON on stderr.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing but errors; the exit code tells.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say who is waited for.
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// When to colour.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: Color,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

// Deferred: only the subcommand that was named is built, which is a tenth of a start.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Run a command that must not overlap with itself, and record how it went.
    Run(Box<Run>),
    /// End the running command of a job.
    Stop(Stop),
    /// Every job and trip: idle or running, since when and by whom; takes no lock.
    Status(Status),
    /// What was run and what was not, and why; the newest last.
    History(History),
    /// Print what a run of a job printed.
    Logs(Logs),
    /// Whether jobs are well, for a monitoring system: late, failing, running too long; takes no lock.
    Check(Check),
    /// Commands that run in the background, one after another: add, list, wait, cancel, retry, pause, resume.
    #[command(subcommand)]
    Queue(Queue),
    /// Update a file by a command that reads the old content and prints the new one.
    Update(Update),
    /// flock(1), with its options: take the lock of a file, run a command, let it go.
    Flock(Flock),
    /// Have systemd or cron start a job at the times that its job file gives; show the next five.
    Install(Install),
    /// Have it started no more: remove what `install` wrote.
    Uninstall(Uninstall),
    /// Look for what is wrong with configuration, job files and state, and for what keeps shell, cron and systemd from
    /// meeting at the same lock; change nothing.
    Doctor(Doctor),
    /// Make, list, show, resize and remove trips.
    #[command(subcommand)]
    Trip(Trip),
    /// Book seats for a student, or a whole batch in one commit.
    Book(Book),
    /// Cancel a student's booking; its seats are free again.
    Cancel(Cancel),
    /// Show the race for the last seat, and each lock that ends it.
    Race(Race),
    /// Print what makes a shell complete triplock's command line.
    Completions(Completions),
    /// Print the manual page of triplock or of a subcommand, or write them all.
    Man(Man),
    /// The process of a queued run.
    #[command(hide = true)]
    QueuedProcess(QueuedProcess),
    /// One student of a race, as a process of its own.
    #[command(hide = true)]
    RaceStudent(RaceStudent),
}

// Deferred: only the subcommand that was named is built, which is a tenth of a start.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Trip {
    /// Make a trip.
    Add {
        /// Its name: 1-128 of A-Z a-z 0-9 . _ -, not starting with . or -.
        trip: Name,
        #[command(flatten)]
        seats: Seats,
        #[command(flatten)]
        request: Request,
    },
    /// All trips, a line each; takes no lock.
    List,
    /// One trip's seats; takes no lock.
    Show {
        /// Its name.
        trip: Name,
        /// Every booking as well: reads the whole ledger.
        #[arg(long)]
        bookings: bool,
    },
    /// Change how many seats a trip has; not below what is booked.
    Resize {
        /// Its name.
        trip: Name,
        #[command(flatten)]
        seats: Seats,
        #[command(flatten)]
        request: Request,
    },
    /// Remove a trip and all its bookings.
    Remove {
        /// Its name.
        trip: Name,
        #[command(flatten)]
        request: Request,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Seats {
    /// How many seats the trip has, 1 to 4294967295.
    #[arg(long, value_name = "N", value_parser = seats, allow_negative_numbers = true)]
    pub(crate) seats: u32,
}

/// How long a change waits for a lock unless told otherwise, in seconds.
const DEFAULT_WAIT: &str = "10";

// (A doc comment here would become the help of every command that asks so.)
#[derive(Debug, Args)]
pub(crate) struct Request {
    /// Do not wait: a trip that is locked is "busy" at once.
    #[arg(short = 'n', long, conflicts_with = "wait")]
    pub(crate) nonblock: bool,
    /// Wait at most this long for the lock: seconds, or 90s 5m 1h 1d.
    #[arg(short = 'w', long, value_name = "DURATION", default_value = DEFAULT_WAIT, value_parser = duration)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) wait: Duration,
    /// Name this request: a retry with the same id returns the first answer, and never books twice.
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<RequestId>,
}

#[derive(Debug, Args)]
pub(crate) struct Book {
    /// The trip.
    pub(crate) trip: Name,
    /// Who books.
    #[arg(long, required_unless_present = "batch")]
    pub(crate) student: Option<Student>,
    /// How many seats.
    #[arg(long, value_name = "K", default_value = "1", value_parser = seats, allow_negative_numbers = true)]
    pub(crate) seats: u32,
    /// Read bookings as JSON Lines, `{"student":"7","seats":1,"request_id":"…"}`, from a file or `-`, and book them
    /// under one lock in one commit.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["student", "seats", "request_id"])]
    pub(crate) batch: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) request: Request,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The trip.
    pub(crate) trip: Name,
    /// Whose booking.
    #[arg(long)]
    pub(crate) student: Student,
    #[command(flatten)]
    pub(crate) request: Request,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 when all is well, 65 when state is corrupt, 78 when anything else is wrong.")]
pub(crate) struct Doctor {
    /// Look at job files in this file or directory only, as `run` would.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) config: Option<PathBuf>,
    /// Look for crontabs, units and users below this directory instead of /.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Without --lock and --matrix: step 1, no lock, then step 2, a file lock; in hosts, \
the lock of the server that --store names.\n\
Exit code: with --lock 0 when the result is safe (of queue: and in order), 1 when not; otherwise 0 when each race came \
out as its lock promises, 1 when not.")]
pub(crate) struct Race {
    /// How many students race, 1 to 1000; each wants one seat.
    #[arg(long, value_name = "N", default_value = "2", value_parser = students, allow_negative_numbers = true)]
    pub(crate) students: u32,
    /// How many seats trip 1 has.
    #[arg(long, value_name = "N", default_value = "1", value_parser = seats, allow_negative_numbers = true)]
    pub(crate) seats: u32,
    /// Which lock each student takes before it checks; queue is a file lock that serves everybody, in the order of
    /// arrival; redis and postgres are on the server that --store or `$TRIPLOCK_STORE` names.
    #[arg(long, value_parser = race_lock())]
    pub(crate) lock: Option<LockKind>,
    /// What the students are; hosts are processes that share nothing but the store.
    #[arg(long = "in", value_name = "PLACE", default_value = "processes", value_parser = race_place())]
    pub(crate) place: Place,
    /// Every lock in every place, as a table; give --store once for each server.
    #[arg(long, conflicts_with_all = ["lock", "place"])]
    pub(crate) matrix: bool,
    /// How long a student waits between check and act, in milliseconds.
    #[arg(long, value_name = "MIN-MAX", default_value_t, allow_hyphen_values = true)]
    pub(crate) delay: Delay,
    /// Repeat the delays of an earlier race [default: a new seed, printed].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    /// Do not wait for a lock: "locked, try later" at once (the default but for queue, whose students wait until
    /// they are served).
    #[arg(short = 'n', long, conflicts_with = "wait")]
    pub(crate) nonblock: bool,
    /// Wait at most this long for a lock: seconds, or 90s 5m 1h 1d.
    #[arg(short = 'w', long, value_name = "DURATION", value_parser = duration, allow_negative_numbers = true)]
    pub(crate) wait: Option<Duration>,
}

// What [`crate::race::Order`] carries.
#[derive(Debug, Args)]
pub(crate) struct RaceStudent {
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) student: u32,
    #[arg(long, value_parser = race_lock())]
    pub(crate) lock: LockKind,
    #[arg(long)]
    pub(crate) name: Name,
    #[arg(long)]
    pub(crate) delay_ms: u64,
    #[arg(long)]
    pub(crate) wait_ms: Option<u64>,
    #[arg(long)]
    pub(crate) parent: u32,
}

/// The domain's words, so that help and errors list them.
fn race_lock() -> impl TypedValueParser<Value = LockKind> {
    PossibleValuesParser::new(LockKind::ALL.map(LockKind::word)).try_map(|word| word.parse::<LockKind>())
}

fn race_place() -> impl TypedValueParser<Value = Place> {
    PossibleValuesParser::new(Place::ALL.map(Place::word)).try_map(|word| word.parse::<Place>())
}

/// A count of students in a race.
fn students(given: &str) -> Result<u32, String> {
    let most = crate::race::Race::MAX_STUDENTS;
    let count = given.parse::<u32>().ok().filter(|count| (1..=most).contains(count));
    count.ok_or_else(|| format!("give a whole number from 1 to {most}"))
}

/// A count of seats.
fn seats(given: &str) -> Result<u32, String> {
    match given.parse::<u32>() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(seats) => Ok(seats),
        Err(_) => Err(format!("give a whole number from 1 to {}", u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
