//! `logs`: what a run printed.

use std::{
    io::{self, Write as _},
    os::fd::AsFd as _,
    time::Duration,
};

use serde::Serialize;

use super::{server, state_path, unknown, written};
use crate::{
    cli::{self, Global},
    dir::StateDir,
    error::{Error, Result},
    exit::ExitCode,
    job::{
        JobFiles, Outcome, RunId, RunView, Runs, ServerJobs,
        log::{Follow, LogFile, LogReader, Logs},
    },
    lock::{Identity, Lane},
    name::Name,
    output::Output,
    queue::view,
};

/// Prints a log, follows it, or lists those there are.
pub(super) fn logs(output: &Output, global: &Global, args: &cli::Logs) -> Result<ExitCode> {
    let (job, wanted, cli::Logs { follow, list, .. }) = (args.job(), args.run(), args);
    if let (cli::Target::Run(run), Some(number)) = (&args.of, args.run) {
        return Err(Error::Usage(format!("{run} is a run already; leave {number} out")));
    }
    let server = server(global)?.map(|url| ServerJobs::connect(&url)).transpose()?;
    let queued = match wanted {
        Some(run) if !list && server.is_none() => queued(global, job, run, *follow)?,
        _ => None,
    };
    if let Some(RunView { outcome: Some(Outcome::Succeeded), .. }) = queued {
        // It printed nothing.
        return Ok(ExitCode::Success);
    }
    if let (Some(view), Some(run)) = (queued, wanted) {
        let why = match view.outcome {
            Some(outcome) => format!("it was not run: {}", outcome.word().replace('_', " ")),
            None if *follow => format!("its process is gone; `triplock queue resume {job}` starts another"),
            None => "it waits in its lane; -f waits with it".to_owned(),
        };
        return Err(Error::NoSuchLog { job: job.clone(), run: Some(run), why });
    }
    let (files, logs) = match find(global, job, server.as_ref()) {
        Err(e) => return Err(elsewhere(server.as_ref(), job, wanted)?.unwrap_or(e)),
        found => found?,
    };
    if *list {
        return print_list(output, job, &logs.list()?);
    }
    let run = match choose(job, &logs, wanted) {
        Err(e) => return Err(elsewhere(server.as_ref(), job, wanted)?.unwrap_or(e)),
        run => run?,
    };
    let mut to = io::stdout().lock();
    let Some(mut reader) = LogReader::open(&logs, run)? else { return Err(without_log(job, Some(run), &logs.runs()?)) };
    let printed = if *follow {
        Follow::new(&files, &logs, run, server.as_ref()).copy(reader, &mut to, io::stdout().as_fd())?
    } else {
        reader.copy(&mut to)?
    };
    written(printed, ExitCode::Success)
}

/// How often to look whether a run that waits has begun to print.
const LOOK: Duration = Duration::from_millis(50);

/// A queued run that left no log, or has none yet; `None` when it is another, or has one. `follow`: waits for its start.
fn queued(global: &Global, job: &Name, run: RunId, follow: bool) -> Result<Option<RunView>> {
    let state = StateDir::open_existing(&state_path(global)?, global.allow_network_fs)?;
    let Some(jobs) = state.as_ref().map(JobFiles::directory).transpose()?.flatten() else { return Ok(None) };
    let Some(lane) = Lane::open(&jobs, job.as_str())? else { return Ok(None) };
    loop {
        // Asked first: what ends in between has its log by then, or none for ever.
        let goes_on = follow && lane.has_run(run.0)?;
        let logs = Logs::open(&jobs, job)?.map(|logs| logs.runs()).transpose()?;
        if logs.is_some_and(|runs| runs.contains(&run)) {
            return Ok(None);
        }
        if !goes_on {
            break;
        }
        std::thread::sleep(LOOK);
    }
    Ok(view(&JobFiles::new(jobs, job.clone()), run)?.filter(|view| view.queued.is_some()))
}

/// Each host keeps the output of its own runs: the error that says where to look, if it is another.
fn elsewhere(server: Option<&ServerJobs>, job: &Name, run: Option<RunId>) -> Result<Option<Error>> {
    let Some(server) = server else { return Ok(None) };
    let Some(known) = server.job(job)? else { return Ok(None) };
    let wanted = |view: &RunView| view.host != Identity::current().host() && run.is_none_or(|run| view.run == run);
    // Of the newest, since logs are of those.
    for view in Runs::of_server(server, &known, None).take(LOOKED_AT) {
        let view = view?;
        if view.attempts.is_empty() || !wanted(&view) {
            continue;
        }
        let why = format!("run {} ran on {}, which keeps its output; ask there", view.run, view.host);
        return Ok(Some(Error::NoSuchLog { job: job.clone(), run: Some(view.run), why }));
    }
    Ok(None)
}

fn find(global: &Global, job: &Name, server: Option<&ServerJobs>) -> Result<(JobFiles, Logs)> {
    let state = StateDir::open_existing(&state_path(global)?, global.allow_network_fs || server.is_some())?;
    let jobs = state.as_ref().map(JobFiles::directory).transpose()?.flatten();
    let mut has_run = false;
    if let Some(jobs) = jobs {
        let logs = Logs::open(&jobs, job)?;
        let files = JobFiles::new(jobs, job.clone());
        if let Some(logs) = logs {
            return Ok((files, logs));
        }
        has_run = files.exist()?;
    }
    if let Some(server) = server {
        has_run = server.job(job)?.is_some();
    }
    if !has_run && unknown::judge(job, &[]).is_ok() {
        return Err(Error::NoSuchLog { job: job.clone(), run: None, why: unknown::NOT_YET.to_owned() });
    }
    Err(without_log(job, None, &[]))
}

fn choose(job: &Name, logs: &Logs, run: Option<RunId>) -> Result<RunId> {
    let runs = logs.runs()?;
    match run {
        None => runs.last().copied().ok_or_else(|| without_log(job, None, &runs)),
        Some(run) if runs.contains(&run) => Ok(run),
        Some(run) => Err(without_log(job, Some(run), &runs)),
    }
}

/// How many runs are looked at for one that ran on another host.
const LOOKED_AT: usize = 100;

/// How many runs an error names.
const NAMED: usize = 10;

fn without_log(job: &Name, run: Option<RunId>, runs: &[RunId]) -> Error {
    let why = if runs.is_empty() {
        "there is none; `run --output capture` or `on-failure` keeps one (an empty one of a success is removed)"
            .to_owned()
    } else {
        let newest: Vec<_> = runs.iter().rev().take(NAMED).map(ToString::to_string).collect();
        let more = if runs.len() > NAMED { " and older ones" } else { "" };
        format!("there are those of {}{more}", newest.join(", "))
    };
    Error::NoSuchLog { job: job.clone(), run, why }
}

/// A log as `logs --list --json` prints it.
#[derive(Serialize)]
struct Listed<'l> {
    job: &'l Name,
    #[serde(flatten)]
    log: &'l LogFile,
}

fn print_list(output: &Output, job: &Name, logs: &[LogFile]) -> Result<ExitCode> {
    let mut to = io::BufWriter::new(io::stdout().lock());
    let printed = logs.iter().try_for_each(|log| output.result(&mut to, &Listed { job, log }, || sentence(log)));
    written(printed.and_then(|()| to.flush()), ExitCode::Success)
}

fn sentence(log: &LogFile) -> String {
    let LogFile { run, bytes, cut } = log;
    if *cut == 0 { format!("run {run}: {bytes} bytes") } else { format!("run {run}: {bytes} bytes, {cut} cut") }
}
