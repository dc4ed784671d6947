//! The subcommands, a file each: take what was parsed, call the library, print.

mod batch;
mod race;
mod trip;

use std::{error::Error as _, io};

use clap::error::ContextKind;

use crate::{
    booking::{Change, Request},
    cli::{self, Cli, Color, Command},
    dir::{Environment, StateDir},
    error::{Error, Result},
    exit::ExitCode,
    lock::{Holder, Wait},
    name::Name,
    output::{self, Failure, Output},
    state::{CommitMode, Store},
};

/// Parses the command line, does what it says, and gives the exit code.
#[doc(hidden)]
pub fn main() -> ExitCode {
    let Cli { global, command } = match Cli::from_arguments() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output::new(&global);
    let done = match command {
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
        Command::Race(args) => race::race(&output, &args),
        Command::RaceStudent(args) => race::student(&args),
    };
    done.unwrap_or_else(|error| output::report(&output, &error))
}

/// The store of the state directory that the command line and the environment name.
fn store(output: &Output, global: &cli::Global) -> Result<Store> {
    let path = match &global.state_dir {
        Some(path) => path.clone(),
        None => StateDir::default_path(&Environment::current())?,
    };
    let store = Store::open(StateDir::open(&path, global.allow_network_fs)?).for_process();
    let store = match std::env::var_os("TRIPLOCK_COMMIT") {
        // For the tests and benchmarks that compare the two protocols.
        Some(mode) if mode == "one-lock" => store.with_commit_mode(CommitMode::OneLock),
        _ => store,
    };
    Ok(if output.announce_waits { store.announcing(announce) } else { store })
}

fn announce(trip: &Name, holder: Option<&Holder>) {
    let holder = holder.map_or_else(String::new, |holder| format!(" (held by {holder})"));
    eprintln!("triplock: waiting for trip {trip}{holder}");
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
    let by = holder.map_or_else(String::new, |holder| format!(" (held by {holder})"));
    let message = format!("trip {trip} is locked, try later{by}");
    output.failure(&Failure { error: "busy", message, exit_code: ExitCode::Busy.code(), details });
    ExitCode::Busy
}

/// What the exit code says is true even when nobody reads the answer: a closed pipe is a normal end.
fn written(output: io::Result<()>, code: ExitCode) -> Result<ExitCode> {
    match output {
        Ok(()) => Ok(code),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(code),
        Err(e) => Err(Error::io("write the answer (which stands) to", "standard output", e)),
    }
}

/// clap's errors as one line and our exit code.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Help and version. Nothing to be done when nobody reads them.
        let _ = error.print();
        return ExitCode::Success;
    }
    let what = match (error.source(), error.get(ContextKind::InvalidArg)) {
        // Without the value: it may be a thousand characters long, and the source shows what of it matters.
        (Some(source), Some(argument)) => format!("{argument}: {source}"),
        _ => {
            let text = error.render().to_string();
            let end = text.find("\n\nUsage:").or_else(|| text.find("\n\nFor more")).unwrap_or(text.len());
            let words: Vec<_> = text[..end].split_whitespace().collect();
            words.join(" ").trim_start_matches("error: ").to_owned()
        }
    };
    let json = std::env::args_os().any(|argument| argument == "--json");
    let output = Output { json, quiet: false, announce_waits: false, color: Color::Never };
    let code = ExitCode::Usage;
    let message = format!("{what}; see `triplock --help`");
    output.failure(&Failure { error: "usage", message, exit_code: code.code(), details: serde_json::Map::new() });
    code
}
