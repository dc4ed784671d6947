//! The subcommands, a file each: take what was parsed, call the library, print.

mod asked;
mod batch;
mod check;
mod completions;
mod doctor;
mod flock;
mod history;
mod install;
mod logs;
mod man;
mod queue;
mod race;
mod run;
mod status;
mod store;
mod table;
mod text;
mod trip;
mod unknown;
mod update;
mod why;

use std::{error::Error as _, ffi::OsString, io};

use clap::error::ContextKind;

use crate::{
    booking::{Change, Request},
    cli::{self, Cli, Color, Command},
    dir::StateDir,
    error::{Error, Result},
    exit::ExitCode,
    lock::{Holder, Wait},
    name::{Name, RequestId},
    output::{self, Failure, Output},
    state::{CommitMode, Store, Trips},
    stderr::{self, Priority},
    store::{ServerTrips, without_passwords},
};
use store::{place, server, servers, state_path};

/// Parses the command line, does what it says, and gives the exit code.
#[doc(hidden)]
pub fn main() -> u8 {
    if let Some(code) = flock::drop_in() {
        return code;
    }
    let Cli { global, command } = match Cli::from_arguments() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).code(),
    };
    let output = Output::new(&global);
    let done = match command {
        Command::Run(args) => return run::run(&output, &global, &args),
        Command::Stop(args) => run::stop(&output, &global, &args),
        Command::Status(cli::Status { name: Some(name), why: true }) => why::why(&output, &global, &name),
        Command::Status(args) => status::status(&output, &global, args.name.as_ref()),
        Command::History(args) => history::history(&output, &global, &args),
        Command::Check(args) => return check::check(&output, &global, &args),
        Command::Logs(args) => logs::logs(&output, &global, &args).map_err(Into::into),
        Command::Update(args) => return update::update(&output, &global, args),
        Command::Queue(command) => {
            return queue::queue(&output, &global, command)
                .unwrap_or_else(|error| output::report(&output, &error, || place(&global).ok()).code());
        }
        Command::Flock(cli::Flock { words }) => return flock::after_options(global, words),
        Command::Install(args) => install::install(&output, &global, &args),
        Command::Uninstall(args) => install::uninstall(&output, &args),
        Command::Doctor(args) => doctor::doctor(&output, &global, &args),
        Command::Trip(cli::Trip::List) => trip::list(&output, &global),
        Command::Trip(cli::Trip::Show { trip, bookings }) => trip::show(&output, &global, &trip, bookings),
        Command::Trip(cli::Trip::Add { trip, seats, request }) => {
            trip::change(&output, &global, &trip, Change::Add { seats: seats.seats }, request)
        }
        Command::Trip(cli::Trip::Resize { trip, seats, request }) => {
            trip::change(&output, &global, &trip, Change::Resize { seats: seats.seats }, request)
        }
        Command::Trip(cli::Trip::Remove { trip, request }) => {
            trip::change(&output, &global, &trip, Change::Remove, request)
        }
        Command::Book(cli::Book { trip, student: Some(student), seats, request, .. }) => {
            trip::change(&output, &global, &trip, Change::Book { student, seats }, request)
        }
        Command::Book(cli::Book { trip, batch, request, .. }) => {
            batch::book(&output, &global, &trip, &batch.unwrap_or_default(), &request)
        }
        Command::Cancel(cli::Cancel { trip, student, request }) => {
            trip::change(&output, &global, &trip, Change::Cancel { student }, request)
        }
        Command::Completions(args) => completions::completions(args.shell).map_err(Into::into),
        Command::Man(args) => man::man(&output, &args).map_err(Into::into),
        Command::Race(args) => race::race(&output, &global, &args),
        Command::QueuedProcess(args) => queue::process(&global, &args),
        Command::RaceStudent(args) => race::student(&global, &args),
    };
    done.unwrap_or_else(|error| output::report(&output, &error, || place(&global).ok())).code()
}

/// The trips of the store, if there is one.
fn trips(output: &Output, global: &cli::Global) -> Result<Option<Box<dyn Trips>>> {
    if let Some(url) = server(global)? {
        return Ok(Some(Box::new(ServerTrips::new(url))));
    }
    let state = StateDir::open_existing(&state_path(global)?, global.allow_network_fs)?;
    Ok(state.map(|state| Box::new(store_in(output, state)) as _))
}

/// The same, made when it is not there.
fn make_trips(output: &Output, global: &cli::Global) -> Result<Box<dyn Trips>> {
    if let Some(url) = server(global)? {
        return Ok(Box::new(ServerTrips::new(url)));
    }
    Ok(Box::new(store_in(output, StateDir::open(&state_path(global)?, global.allow_network_fs)?)))
}

fn store_in(output: &Output, state: StateDir) -> Store {
    if state.is_shared() {
        // Files get their modes in one step with their names, so that a kill in between keeps nobody out. Everything
        // that this process makes has a mode of its own choice.
        rustix::process::umask(rustix::fs::Mode::empty());
    }
    let store = Store::open(state).for_process();
    let store = match std::env::var_os("TRIPLOCK_COMMIT") {
        // For the tests and benchmarks that compare the two protocols.
        Some(mode) if mode == "one-lock" => store.with_commit_mode(CommitMode::OneLock),
        _ => store,
    };
    if output.announce_waits { store.announcing(announce) } else { store }
}

fn announce(trip: &Name, holder: Option<&Holder>) {
    stderr::line(Priority::Info, format_args!("triplock: waiting for trip {trip}{}", hint(holder)));
}

/// What the lock file says; whoever locks it without triplock leaves no note, so it may speak of somebody else.
fn hint(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(" (last taken by {holder})"))
}

/// How long the command line says to wait, and the request.
fn lower(change: Change, request: cli::Request) -> (Request, Wait) {
    let wait = wait(&request);
    (Request { change, id: request.request_id }, wait)
}

fn wait(request: &cli::Request) -> Wait {
    if request.nonblock { Wait::No } else { Wait::For(request.wait) }
}

/// The document's "locked, try later".
fn busy(output: &Output, trip: &Name, holder: Option<&Holder>) -> ExitCode {
    let mut details = serde_json::Map::new();
    details.insert("trip".to_owned(), trip.as_str().into());
    details.insert("holder".to_owned(), serde_json::to_value(holder).unwrap_or_default());
    let message = format!("trip {trip} is locked, try later{}", hint(holder));
    output.failure(&Failure { error: "busy", message, exit_code: ExitCode::Busy.code(), details });
    ExitCode::Busy
}

/// A closed pipe is a normal end: the exit code tells.
fn written(output: io::Result<()>, code: ExitCode) -> Result<ExitCode> {
    match output {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("write to", "standard output", e)),
        _ => Ok(code),
    }
}

/// The same of an answer that stands: the caller does not know it, and learns it by asking again.
fn answered(output: io::Result<()>, code: ExitCode, request_id: Option<&RequestId>) -> Result<ExitCode> {
    written(output, code).map_err(|e| Error::Uncertain {
        request_id: request_id.cloned(),
        why: format!("the answer is on disk, but triplock {e}"),
    })
}

/// What is wrong with a command line, in one line; `text`: what clap says of it.
fn wrong(error: &clap::Error, text: &str) -> String {
    match (error.source(), error.get(ContextKind::InvalidArg)) {
        // Without the value: it may be a thousand characters long, and the source shows what of it matters.
        (Some(source), Some(argument)) => format!("{argument}: {source}"),
        (None, _) if missing_command(error) => {
            let names = error.get(ContextKind::ValidSubcommand).map_or_else(String::new, |names| format!(": {names}"));
            format!("a command is missing{names}")
        }
        _ => {
            let end = text.find("\n\nUsage:").or_else(|| text.find("\n\nFor more")).unwrap_or(text.len());
            let words = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
            let parts: Vec<_> = text[..end].split("\n\n").map(words).filter(|part| !part.is_empty()).collect();
            parts.join("; ").trim_start_matches("error: ").to_owned()
        }
    }
}

/// clap's errors as one line and our exit code.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Help and version. Nothing to be done when nobody reads them.
        let _ = error.print();
        return ExitCode::Success;
    }
    // It quotes words of the command line, and somebody may have put a password there.
    let text = without_passwords(&error.render().to_string());
    let what = without_passwords(&wrong(error, &text));
    // Of `run`, what comes after `--` is another command's.
    let arguments: Vec<_> = std::env::args_os().skip(1).take_while(|argument| argument != "--").collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let output = Output { json, quiet: false, announce_waits: false, color: Color::Never };
    let subcommand = subcommand(&arguments);
    let code = match subcommand {
        // As timeout(1) and env(1): any other code would be taken for the command's.
        Some("run" | "update") => ExitCode::NotRun,
        // As monitoring plugins.
        Some("check") => return check::wrong_command_line(&output, &format!("{what}; see `triplock check --help`")),
        _ => ExitCode::Usage,
    };
    // The command whose usage clap shows is the one whose help helps.
    let usage = text.split("Usage: ").nth(1).unwrap_or_default().split_whitespace();
    let shown: Vec<_> = usage.take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase())).collect();
    let help = match (&shown[..], subcommand) {
        ([], Some(subcommand)) => format!("triplock {subcommand}"),
        ([], None) => "triplock".to_owned(),
        (shown, _) => shown.join(" "),
    };
    let message = format!("{what}; see `{help} --help`");
    output.failure(&Failure { error: "usage", message, exit_code: code.code(), details: serde_json::Map::new() });
    code
}

/// The subcommand that those arguments name, right or wrong as they are.
fn subcommand(arguments: &[OsString]) -> Option<&str> {
    let mut arguments = arguments.iter().filter_map(|argument| argument.to_str());
    while let Some(argument) = arguments.next() {
        match argument {
            "--state-dir" | "--store" | "--color" => {
                arguments.next();
            }
            option if option.starts_with('-') => {}
            subcommand => return Cli::has(subcommand).then_some(subcommand),
        }
    }
    None
}

fn missing_command(error: &clap::Error) -> bool {
    use clap::error::ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingSubcommand};
    matches!(error.kind(), DisplayHelpOnMissingArgumentOrSubcommand | MissingSubcommand)
}
