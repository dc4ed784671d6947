//! `doctor`: what is wrong, a line each, and how much was looked at.

use std::io::{self, Write as _};

use serde::Serialize;

use super::{asked::asked, state_path, written};
use crate::{
    cli::{self, Global},
    dir::Environment,
    doctor::{Doctor, Findings, LookedAt, Problem},
    exit::ExitCode,
    output::{self, Output, printable},
};

pub(super) fn doctor(output: &Output, global: &Global, args: &cli::Doctor) -> anyhow::Result<ExitCode> {
    let environment = Environment::current();
    let state = state_path(global);
    let allow_network_fs = global.allow_network_fs;
    let doctor = Doctor {
        environment: &environment,
        config: args.config.as_deref(),
        state,
        allow_network_fs,
        root: args.root.as_deref(),
        understand: &asked,
    };
    let findings = doctor.examine();
    let mut to = io::BufWriter::new(io::stdout().lock());
    let printed = print(output, &findings, &mut to).and_then(|()| to.flush());
    Ok(written(printed, findings.exit_code())?)
}

fn print(output: &Output, findings: &Findings, to: &mut impl io::Write) -> io::Result<()> {
    for problem in &findings.problems {
        let message = problem.to_string();
        let (word, details) = match problem {
            Problem::Error(error) => (error.kind(), output::details(error)),
            Problem::Trouble(trouble) => (trouble.word, trouble.details.clone()),
        };
        output.result(to, &Line { problem: word, message: &message, details }, || printable(&message))?;
    }
    for note in &findings.notes {
        output.result(to, &Note { note }, || printable(note))?;
    }
    let problems = findings.problems.len();
    output.result(to, &Summary { problems, looked_at: &findings.looked_at }, || sentence(problems, &findings.looked_at))
}

/// A problem as JSON prints it.
#[derive(Serialize)]
struct Line<'a> {
    problem: &'a str,
    message: &'a str,
    #[serde(flatten)]
    details: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Note<'a> {
    note: &'a str,
}

#[derive(Serialize)]
struct Summary<'a> {
    problems: usize,
    looked_at: &'a LookedAt,
}

fn sentence(problems: usize, looked_at: &LookedAt) -> String {
    let LookedAt { job_files, defined_jobs, scheduled, ledgers, trips, state_dir } = looked_at;
    let count = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let problems = match problems {
        0 => "all is well".to_owned(),
        problems => count(problems, "problem", "problems"),
    };
    let place = state_dir.as_ref().map_or_else(String::new, |path| format!(" in {}", path.display()));
    format!(
        "{problems}: looked at {} in {}, {} in crontabs and units, {} and {}{place}",
        count(*defined_jobs, "job", "jobs"),
        count(*job_files, "job file", "job files"),
        count(*scheduled, "command line", "command lines"),
        count(*ledgers, "job's ledger", "jobs' ledgers"),
        count(*trips, "trip", "trips"),
    )
}
