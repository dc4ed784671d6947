//! `history`: what was run and what was not, and why.

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{
    server, state_path,
    table::{Cell, Paint, Table},
    text,
    unknown::{NeverRun, judge, never_run},
    written,
};
use crate::{
    cli,
    clock::{Clock as _, SystemClock},
    dir::{Dir, StateDir},
    error::{Error, Result},
    exit::ExitCode,
    job::{JobFiles, Look, Outcome, RunState, RunView, Runs, ServerJob, ServerJobs},
    lock::Lane,
    name::Name,
    output::{Output, report},
    store::StoreUrl,
};

/// Prints the newest runs, the newest last.
pub(super) fn history(output: &Output, global: &cli::Global, args: &cli::History) -> anyhow::Result<ExitCode> {
    if let Some(url) = server(global)? {
        return of_server(output, &url, args);
    }
    let state = StateDir::open_existing(&state_path(global)?, global.allow_network_fs)?;
    let dir = state.as_ref().map(JobFiles::directory).transpose()?.flatten();
    let jobs = match (&args.job, dir) {
        (Some(job), dir) => match of_one(dir.as_ref(), job)? {
            Some(files) => vec![files],
            None => {
                output.message(&never_run(job));
                return Ok(ExitCode::Success);
            }
        },
        (None, Some(dir)) => JobFiles::all(&dir)?.into_iter().map(|(files, _)| files).collect(),
        (None, None) => Vec::new(),
    };
    let since = since(args, SystemClock.now());
    let mut code = ExitCode::Success;
    let mut broken = |e: Error| code = report(output, &anyhow::Error::from(e), || None);
    let mut sources = Vec::new();
    for files in &jobs {
        match Runs::of(files, since) {
            Ok(runs) => sources.push(Source::new(Origin::Files(files), runs)),
            Err(e) if jobs.len() == 1 => return Err(e.into()),
            Err(e) => broken(e),
        }
    }
    let (runs, bad_lines) = newest(sources, args.failed, args.most())?;
    if bad_lines > 0 {
        output.message(&format!("damaged lines passed over, as a crash or a power cut leaves them: {bad_lines}"));
    }
    print(output, args, &runs, code)
}

/// The same of jobs on a server.
fn of_server(output: &Output, url: &StoreUrl, args: &cli::History) -> anyhow::Result<ExitCode> {
    let server = ServerJobs::connect(url)?;
    let jobs = match &args.job {
        None => server.all()?,
        Some(job) => match server.job(job)? {
            Some(job) => vec![job],
            None => {
                let others: Vec<_> = server.all()?.into_iter().map(|job| job.job).collect();
                let NeverRun = judge(job, &others)?;
                output.message(&never_run(job));
                return Ok(ExitCode::Success);
            }
        },
    };
    let since = since(args, server.now()?);
    let source = |job| Source::new(Origin::Server(job), Runs::of_server(&server, job, since));
    let (runs, _) = newest(jobs.iter().map(source).collect(), args.failed, args.most())?;
    print(output, args, &runs, ExitCode::Success)
}

/// A moment before the calendar began is before every run.
fn since(args: &cli::History, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let ago = args.since.and_then(|ago| chrono::TimeDelta::from_std(ago).ok());
    ago.and_then(|ago| now.checked_sub_signed(ago))
}

fn print(output: &Output, args: &cli::History, runs: &[RunView], code: ExitCode) -> anyhow::Result<ExitCode> {
    let mut to = io::BufWriter::new(io::stdout().lock());
    if runs.is_empty() {
        output.message(&nothing(args));
    }
    let printed = if output.json {
        runs.iter().try_for_each(|run| output.result(&mut to, run, || ""))
    } else if output.quiet || runs.is_empty() {
        Ok(())
    } else {
        rows(runs, args.job.is_none()).print(&mut to, output.in_color())
    };
    Ok(written(printed.and_then(|()| to.flush()), code)?)
}

/// The files of a job; none when it has not run yet.
fn of_one(dir: Option<&Arc<Dir>>, job: &Name) -> Result<Option<JobFiles>> {
    let Some(dir) = dir else { return judge(job, &[]).map(|NeverRun| None) };
    let files = JobFiles::new(Arc::clone(dir), job.clone());
    if files.exist()? {
        return Ok(Some(files));
    }
    let others: Vec<_> = JobFiles::all(dir)?.into_iter().map(|(files, _)| files.job).collect();
    judge(job, &others).map(|NeverRun| None)
}

fn nothing(args: &cli::History) -> String {
    let what = if args.failed { "nothing failed" } else { "nothing was run" };
    args.job.as_ref().map_or_else(|| what.to_owned(), |job| format!("{job}: {what}"))
}

/// Where a job's runs are, and what tells whether one without an end goes on.
#[derive(Clone, Copy)]
enum Origin<'f> {
    Files(&'f JobFiles),
    /// As it was before the entries were read.
    Server(&'f ServerJob),
}

/// The runs of one job, and the next of them.
struct Source<'f> {
    origin: Origin<'f>,
    next: Option<Result<RunView>>,
    runs: Runs,
}

impl<'f> Source<'f> {
    fn new(origin: Origin<'f>, mut runs: Runs) -> Self {
        Self { origin, next: runs.next(), runs }
    }
}

/// The newest runs of all these jobs by time, the oldest of them first. Also how many damaged lines were passed over.
fn newest(mut sources: Vec<Source<'_>>, failed: bool, most: usize) -> Result<(Vec<RunView>, u64)> {
    let mut look = None;
    let mut found = Vec::new();
    while found.len() < most {
        let mut best: Option<(usize, Option<DateTime<Utc>>)> = None;
        for (at, source) in sources.iter().enumerate() {
            let time = match &source.next {
                Some(Ok(run)) => run.time(),
                // Told at once.
                Some(Err(_)) => Some(DateTime::<Utc>::MAX_UTC),
                None => continue,
            };
            if best.is_none_or(|(_, best)| time > best) {
                best = Some((at, time));
            }
        }
        let Some((at, _)) = best else { break };
        let source = &mut sources[at];
        let Some(run) = std::mem::replace(&mut source.next, source.runs.next()) else { continue };
        let mut run = run?;
        match (run.state, source.origin) {
            (RunState::Unknown, Origin::Files(files)) => run = settled(files, run, &mut look)?,
            (RunState::Unknown, Origin::Server(job)) => run.settle_lease(job.runs(run.run)),
            (RunState::Queued, Origin::Files(files)) => {
                let lane = Lane::open(&files.dir, files.job.as_str())?;
                run.settle_queued(lane.map_or(Ok(false), |lane| lane.has_run(run.run.0))?);
            }
            _ => {}
        }
        if !failed || run.outcome.is_some_and(Outcome::is_failure) {
            found.push(run);
        }
    }
    found.reverse();
    Ok((found, sources.iter().map(|source| source.runs.bad_lines()).sum()))
}

/// A run whose end its ledger did not show a moment ago, with what its lock says. `look`: made once for all of them,
/// after the ledgers were opened.
fn settled(files: &JobFiles, mut run: RunView, look: &mut Option<Look>) -> Result<RunView> {
    if look.is_none() {
        *look = Some(Look::now()?);
    }
    let totals = files.totals()?.unwrap_or_default();
    let running = totals.running.iter().find(|running| running.run == run.run);
    let goes_on = match (running, look) {
        (Some(running), Some(look)) => look.runs(files, running)?,
        _ => Some(false),
    };
    if goes_on == Some(false) {
        // It may have ended since, and then its wrapper has said how.
        for again in Runs::of(files, None)? {
            let again = again?;
            if again.run == run.run && again.state != RunState::Unknown {
                return Ok(again);
            }
            if again.run <= run.run {
                break;
            }
        }
    }
    run.settle(goes_on);
    Ok(run)
}

fn rows(runs: &[RunView], of_all_jobs: bool) -> Table<11> {
    let mut table = Table::new([
        "JOB", "RUN:", "STARTED", "TOOK:", "OUTCOME", "EXIT:", "TRIES:", "CPU:", "MEMORY:", "WAITED:", "NOTE",
    ]);
    for run in runs {
        let has_run = !matches!(run.state, RunState::NotRun | RunState::Queued | RunState::Stranded);
        // Nobody measured a run whose wrapper was gone, nor one that never started.
        let is_measured = run.duration.is_some() && run.peak_memory > 0;
        let figure = |text: String| if is_measured { text.into() } else { Cell::default() };
        table.push([
            if of_all_jobs { run.job.as_str().into() } else { Cell::default() },
            run.run.to_string().into(),
            run.time().map_or_else(String::new, text::local).into(),
            took(run).into(),
            outcome(run),
            match (run.exit, run.signal) {
                (Some(code), _) => code.to_string().into(),
                (None, Some(signal)) => crate::job::signal::name(signal).into(),
                (None, None) => Cell::default(),
            },
            if has_run { run.attempts.len().max(1).to_string().into() } else { Cell::default() },
            figure(text::span(run.user + run.system)),
            figure(text::bytes(run.peak_memory)),
            text::span(run.wait).into(),
            note(run).into(),
        ]);
    }
    table
}

fn took(run: &RunView) -> String {
    match (run.duration, run.start) {
        // Nobody was there to see it end.
        _ if run.outcome == Some(Outcome::Lost)
            || run.duration == Some(0.0) && run.outcome == Some(Outcome::LeaseLost) =>
        {
            String::new()
        }
        (Some(duration), _) => text::span(duration),
        (None, Some(start)) if run.state == RunState::Running => text::since(start, SystemClock.now()),
        _ => String::new(),
    }
}

fn outcome(run: &RunView) -> Cell {
    match (run.state, run.outcome) {
        (_, Some(outcome)) => self::painted(outcome),
        (RunState::Running, None) => Cell::painted("running", Paint::Active),
        (RunState::Queued, None) => Cell::painted("waiting", Paint::Notable),
        (RunState::Stranded, None) => Cell::painted("stranded", Paint::Bad),
        (_, None) => Cell::painted("unknown", Paint::Notable),
    }
}

/// An outcome in its colour.
pub(super) fn painted(outcome: Outcome) -> Cell {
    let paint = match outcome {
        Outcome::Succeeded => Paint::Good,
        outcome if outcome.is_failure() => Paint::Bad,
        Outcome::NotDue => return outcome.word().into(),
        _ => Paint::Notable,
    };
    Cell::painted(outcome.word(), paint)
}

fn note(run: &RunView) -> String {
    match (&run.holder, &run.reason) {
        (Some(holder), _) if run.outcome == Some(Outcome::Skipped) => {
            let since = text::local(holder.since);
            let host = if holder.host == run.host { String::new() } else { format!(" on {}", holder.host) };
            format!("held by pid {}{host} since {since}: {}", holder.pid, holder.command)
        }
        // It may have another process by now: `queue list` tells.
        (_, Some(reason)) if run.state == RunState::Queued => format!("once stranded: {reason}"),
        (_, Some(reason)) => reason.clone(),
        (_, None) if run.state == RunState::Running => format!("pid {} on {}", run.pid, run.host),
        (_, None) => String::new(),
    }
}
