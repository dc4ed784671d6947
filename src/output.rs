//! Everything that triplock prints. Results go to stdout, messages and errors to stderr.
//!
//! The JSON is a contract, described in docs/json.md: each object begins with `"format":1`.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write},
};

use serde::Serialize;

use crate::{
    cli::{Color, Global},
    error::Error,
    exit::ExitCode,
    stderr::{self, Priority},
};

/// Where and how to print.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    /// Say who is waited for: asked for, or somebody is watching.
    pub(crate) announce_waits: bool,
    pub(crate) color: Color,
}

/// An object of the JSON contract.
#[derive(Serialize)]
struct Versioned<'a, T: Serialize> {
    format: u64,
    #[serde(flatten)]
    value: &'a T,
}

/// An error as JSON prints it.
#[derive(Serialize)]
pub(crate) struct Failure<'a> {
    pub(crate) error: &'a str,
    pub(crate) message: String,
    pub(crate) exit_code: u8,
    #[serde(flatten)]
    pub(crate) details: serde_json::Map<String, serde_json::Value>,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            json: global.json,
            quiet: global.quiet,
            announce_waits: global.verbose || (!global.quiet && !global.json && io::stderr().is_terminal()),
            color: global.color,
        }
    }

    /// Whether to colour what goes to stdout.
    pub(crate) fn in_color(&self) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// A result: the JSON object, or the text that `text` makes.
    pub(crate) fn result<T: Serialize, D: Display>(
        &self,
        to: &mut impl Write,
        value: &T,
        text: impl FnOnce() -> D,
    ) -> io::Result<()> {
        if self.json {
            let mut line = serde_json::to_vec(&Versioned { format: crate::FORMAT, value }).map_err(io::Error::other)?;
            line.push(b'\n');
            to.write_all(&line)
        } else if self.quiet {
            Ok(())
        } else {
            writeln!(to, "{}", text())
        }
    }

    /// A message for a person.
    pub(crate) fn message(&self, text: &str) {
        if !self.quiet && !self.json {
            stderr::line(Priority::Info, format_args!("triplock: {}", printable(text)));
        }
    }

    /// Something that went wrong and did not change the result; also when quiet.
    pub(crate) fn warning(&self, text: &str) {
        if self.json {
            let warning = serde_json::json!({ "warning": text });
            let line = serde_json::to_string(&Versioned { format: crate::FORMAT, value: &warning });
            stderr::line(Priority::Warning, line.expect("a warning is plain data"));
        } else {
            stderr::line(Priority::Warning, format_args!("triplock: {}", printable(text)));
        }
    }

    /// An error; also when quiet.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.failure_of(Priority::Error, failure);
    }

    /// The same of something that need not be one.
    pub(crate) fn failure_of(&self, priority: Priority, failure: &Failure) {
        let line = if self.json {
            serde_json::to_string(&Versioned { format: crate::FORMAT, value: failure })
                .expect("a failure is plain data")
        } else {
            format!("triplock: {}", printable(&failure.message))
        };
        stderr::line(priority, line);
    }
}

/// Without the characters that would steer a terminal: a message may quote what somebody else chose.
pub(crate) fn printable(text: &str) -> std::borrow::Cow<'_, str> {
    // The bidirectional marks and overrides reorder what stands around them.
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(steers) {
        return text.into();
    }
    let escaped = |c: char| if steers(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect::<String>().into()
}

/// The one place that turns an error into what is printed and the exit code.
/// `place`: the state directory or the server, for who looked for a trip in the wrong one.
pub(crate) fn report(output: &Output, error: &anyhow::Error, place: impl FnOnce() -> Option<String>) -> ExitCode {
    let (failure, code) = failure(error, place);
    output.failure(&failure);
    code
}

/// The same for commands whose exit code is another command's: every error of ours is one code.
pub(crate) fn report_as(output: &Output, error: &anyhow::Error, code: ExitCode) -> u8 {
    let (failure, _) = failure(error, || None);
    output.failure(&Failure { exit_code: code.code(), ..failure });
    code.code()
}

fn failure(error: &anyhow::Error, place: impl FnOnce() -> Option<String>) -> (Failure<'_>, ExitCode) {
    let mut details = serde_json::Map::new();
    // A typed error tells its source already; anything else says what it was wrapped in, and then its chain.
    let typed = error.downcast_ref::<Error>();
    let message = match typed {
        Some(Error::NoSuchTrip(trip)) => match place() {
            Some(place) => {
                format!("no such trip: {trip} in {place}; `triplock trip list` shows those there are")
            }
            None => error.to_string(),
        },
        Some(error) => error.to_string(),
        None => format!("{error:#}"),
    };
    let (kind, code) = match typed {
        Some(error) => {
            details = self::details(error);
            (error.kind(), error.exit_code())
        }
        None => ("system", ExitCode::System),
    };
    (Failure { error: kind, message, exit_code: code.code(), details }, code)
}

/// What an error's JSON tells besides its message.
pub(crate) fn details(error: &Error) -> serde_json::Map<String, serde_json::Value> {
    let mut details = serde_json::Map::new();
    match error {
        Error::Corrupt { path, offset, .. } => {
            details.insert("path".to_owned(), path.to_string_lossy().into());
            details.insert("offset".to_owned(), (*offset).into());
        }
        Error::BadConfiguration { path, line, .. } => {
            details.insert("path".to_owned(), path.to_string_lossy().into());
            if *line > 0 {
                details.insert("line".to_owned(), (*line).into());
            }
        }
        Error::NoSuchLog { job, run, .. } => {
            details.insert("job".to_owned(), job.as_str().into());
            details.insert("run".to_owned(), run.map(|run| run.0).into());
        }
        Error::NoSuchRun { run, .. } => {
            details.insert("run".to_owned(), run.to_string().into());
        }
        Error::NoSuchJob { job, .. } => {
            details.insert("job".to_owned(), job.as_str().into());
        }
        Error::BadBatch { line, .. } => {
            details.insert("line".to_owned(), (*line).into());
        }
        Error::Uncertain { request_id: Some(id), .. } => {
            details.insert("request_id".to_owned(), id.as_str().into());
        }
        Error::Io { path, .. }
        | Error::NotAppended { path, .. }
        | Error::CannotCreate { path, .. }
        | Error::Denied { path, .. }
        | Error::NotOurs { path, .. }
        | Error::NotRegular { path, .. }
        | Error::NewerFormat { path, .. }
        | Error::UntrustedFileSystem { path, .. } => {
            details.insert("path".to_owned(), path.to_string_lossy().into());
        }
        Error::Server { server, .. } => {
            details.insert("server".to_owned(), server.as_str().into());
        }
        Error::NoSuchTrip(trip) => {
            details.insert("trip".to_owned(), trip.as_str().into());
        }
        _ => {}
    }
    details
}
