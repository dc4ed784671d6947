//! `doctor`: what is wrong, a line each, and how much was looked at.

use std::io::{self, Write as _};

use serde::Serialize;

use super::{
    asked::asked,
    state_path,
    store::{self, Server},
    written,
};
use crate::{
    cli::{self, Global},
    dir::Environment,
    doctor::{Doctor, Findings, Looked, LookedAt, Problem, Store},
    error::Result,
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
        store: the_store(global),
        allow_network_fs,
        root: args.root.as_deref(),
        understand: &asked,
    };
    let findings = doctor.examine();
    let mut to = io::BufWriter::new(io::stdout().lock());
    let printed = print(output, &findings, &mut to).and_then(|()| to.flush());
    Ok(written(printed, findings.exit_code())?)
}

/// The server that is the store.
fn the_store(global: &Global) -> Result<Option<Store>> {
    let (choice, named) = store::choice(global)?;
    let Some(url) = choice.into_url() else { return Ok(None) };
    let Server { url, password, passed_over } = store::with_credentials(url, &named)?;
    let password_from = password.map(|source| source.to_string());
    Ok(Some(Store { url, named_by: named.to_string(), password_from, passed_over }))
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
    if let Some(store) = &findings.looked_at_store {
        output.result(to, store, || printable(&sentence_of(store)).into_owned())?;
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

/// `store: postgres://db/trips ($TRIPLOCK_STORE): PostgreSQL 15.18 by TLS; fsync on: …`
fn sentence_of(store: &Looked) -> String {
    let Looked { store, named_by, password_from, said } = store;
    let password = password_from.as_ref().map_or_else(String::new, |from| format!("; password from {from}"));
    let said = said.as_ref().map_or_else(String::new, |said| {
        let by = if said.encrypted { " by TLS" } else { "" };
        let durability = said.durability.iter().flat_map(|line| ["; ", line]).collect::<String>();
        format!(": {}{by}{durability}", said.product)
    });
    format!("store: {store} (named by {named_by}){said}{password}")
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
