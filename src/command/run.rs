//! `run` and `stop`.

use super::{hint, server, state_path, unknown};
use crate::{
    cli::{self, Global},
    dir::{Environment, StateDir},
    error::{Error, Result},
    exit::ExitCode,
    install::Account,
    job::{
        self, Done, JobFiles, Options, Outcome, ServerJobs, StopCount, StopJob,
        definition::{Resolved, Sources},
    },
    lock::Holder,
    name::Name,
    output::{self, Failure, Output},
    stderr::{self, Priority},
};

/// `run`: the command's own exit code, or ours.
pub(super) fn run(output: &Output, global: &Global, args: &cli::Run) -> u8 {
    match attempt(output, global, args) {
        Ok(done) => {
            tell(output, args, &done);
            done.code
        }
        // Fails closed: nothing was run.
        Err(error) => output::report_as(output, &error.into(), ExitCode::NotRun),
    }
}

fn attempt(output: &Output, global: &Global, args: &cli::Run) -> Result<Done> {
    let sources = Sources::new(args.options.course.config.as_deref(), &Environment::current())?;
    let path = state_path(global)?;
    let resolved = sources.resolve(&args.job, args.command.clone(), args.settings());
    let Resolved { command, options, user } = match resolved {
        Ok(resolved) => resolved,
        Err(e) => {
            // Of a job that no file defines nobody wants a ledger: the name may be a slip.
            if matches!(e, Error::BadConfiguration { .. }) {
                let recorded = StateDir::open(&path, global.allow_network_fs)
                    .and_then(|state| job::Run::refuse(&state, &args.job, &e, ""));
                // What is wrong is what matters.
                let _ = recorded;
            }
            return Err(e);
        }
    };
    if let Some(user) = user.filter(|user| is_somebody_else(user)) {
        let job = &args.job;
        output.warning(&format!(
            "{job}: it is user {user}'s by its job file, and what this user's run makes may be closed to {user}; \
             next time: sudo -u {user} triplock run {job}"
        ));
    }
    let store = server(global)?;
    // With a server as the store, the directory holds captured output, and any file system will do.
    let state = StateDir::open(&path, global.allow_network_fs || store.is_some())?;
    let announce = |lock: &str, holder: Option<&Holder>| {
        if output.announce_waits {
            let paused = if lock == args.job.as_str() && is_paused(&state, &args.job) {
                format!(" (its lane is paused: `triplock queue resume {lock}`)")
            } else {
                String::new()
            };
            let hint = hint(holder);
            stderr::line(Priority::Info, format_args!("triplock: {}: waiting for {lock}{hint}{paused}", args.job));
        }
    };
    let (state, job, command, options) = (&state, &args.job, command.as_slice(), &options);
    match &store {
        Some(url) => job::LeasedRun { url, state, job, command, options, announce: &announce }.run(),
        None => {
            wants_no_server(options)?;
            job::Run { state, job, command, options, queued: None, announce: &announce }.run()
        }
    }
}

fn is_paused(state: &StateDir, job: &Name) -> bool {
    let jobs = JobFiles::directory(state).ok().flatten();
    jobs.is_some_and(|jobs| JobFiles::new(jobs, job.clone()).is_paused().unwrap_or(false))
}

/// A host that forgot the store must not run alone what others run too.
fn wants_no_server(options: &Options) -> Result<()> {
    let option = match options {
        Options { tick: Some(_), .. } => "--tick is for hosts that share a server",
        Options { lease: Some(_), .. } => "--lease is for a lock on a server",
        _ => return Ok(()),
    };
    Err(Error::Usage(format!("{option}, and this host has no store but its own files; name the server with --store")))
}

/// Whether that is a user of this machine, and not the one who runs this. (Who is in no file is not asked for: that
/// takes long, and a start is not the time.)
fn is_somebody_else(user: &str) -> bool {
    Account::listed(user).is_some_and(|account| account.uid != rustix::process::geteuid().as_raw())
}

/// Says on stderr what the exit code does not. A run that was skipped is silent unless somebody watches: its line is
/// in the ledger, and cron would mail anything that is said.
fn tell(output: &Output, args: &cli::Run, done: &Done) {
    let job = &args.job;
    for warning in &done.warnings {
        output.warning(&format!("{job}: {warning}"));
    }
    let Some(why) = &done.why else { return };
    let word = match done.outcome {
        Outcome::Skipped | Outcome::NotDue | Outcome::Interrupted if !output.announce_waits && !output.json => return,
        Outcome::NotStarted => "not started: ",
        outcome if !outcome.has_run() => "not run: ",
        _ => "",
    };
    let mut details = serde_json::Map::new();
    details.insert("job".to_owned(), job.as_str().into());
    details.insert("holder".to_owned(), serde_json::to_value(&done.holder).unwrap_or_default());
    let message = format!("{job}: {word}{why}");
    let priority = match done.code {
        _ if done.outcome.is_failure() => Priority::Error,
        0 => Priority::Info,
        _ => Priority::Warning,
    };
    output.failure_of(priority, &Failure { error: done.outcome.word(), message, exit_code: done.code, details });
}

/// `stop`.
pub(super) fn stop(output: &Output, global: &Global, args: &cli::Stop) -> anyhow::Result<ExitCode> {
    if let Some(url) = server(global)? {
        let server = ServerJobs::connect(&url)?;
        let ended = match server.job(&args.job)? {
            Some(_) => Some(StopCount { ended: server.stop(&args.job)?, elsewhere: None }),
            None => None,
        };
        return tell_stopped(output, args, ended.as_ref());
    }
    let state = StateDir::open_existing(&state_path(global)?, global.allow_network_fs)?;
    let stopped = match &state {
        Some(state) => job::stop(&StopJob { state, job: &args.job, grace: args.kill_after })?,
        None => None,
    };
    tell_stopped(output, args, stopped.as_ref())
}

/// `stopped`: `None` of a job that has never run.
fn tell_stopped(output: &Output, args: &cli::Stop, stopped: Option<&StopCount>) -> anyhow::Result<ExitCode> {
    let nothing = |why: &str| format!("{}: nothing to stop: {why}", args.job);
    let message = match stopped {
        None => {
            let unknown::NeverRun = unknown::judge(&args.job, &[])?;
            Some(nothing(unknown::NOT_YET))
        }
        Some(StopCount { elsewhere: Some(pid), .. }) => {
            Some(format!("{}: runs under `flock --job`, which stop does not end; end its process, pid {pid}", args.job))
        }
        Some(StopCount { ended: 0, .. }) => Some(nothing("it is not running")),
        Some(_) => None,
    };
    if let Some(message) = message {
        let mut details = serde_json::Map::new();
        details.insert("job".to_owned(), args.job.as_str().into());
        output.failure(&Failure { error: "not_running", message, exit_code: ExitCode::Refused.code(), details });
        return Ok(ExitCode::Refused);
    }
    output.message(&format!("{}: stopped", args.job));
    Ok(ExitCode::Success)
}
