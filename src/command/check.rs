//! `check`: one line for a monitoring system, as its plugins print it.
//!
//! The form is the Monitoring Plugins guidelines': `SERVICE STATE - text | label=value[unit];[warning];[critical];[min]
//! …`, where a threshold is a range (`5` means that more than 5 is wrong) and a value that is not known is `U`.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{server, state_path, text, unknown::no_such_job};
use crate::{
    check::{Check, Figures, Finding, Judgement, LastFailure, Limits, State},
    cli::{self, Global},
    clock::{Clock as _, SystemClock},
    dir::{Environment, StateDir},
    error::Error,
    exit::ExitCode,
    job::{ServerJobs, definition::Sources},
    output::{self, Output, printable},
};

/// Of many jobs that are not well so many are named: a line that is too long is cut by who reads it.
const MOST: usize = 8;

/// Prints how the jobs are; the exit code is a monitoring plugin's.
pub(super) fn check(output: &Output, global: &Global, args: &cli::Check) -> u8 {
    let judged = match judged(global, args) {
        Ok(judged) => judged,
        Err(error) => return unknown(output, &error.into()),
    };
    let state = State::worst(judged.iter().map(Judgement::state));
    let now = SystemClock.now();
    let line = || match (&judged[..], &args.job) {
        ([one], Some(_)) => line(state, &told(one, now), &one.figures.as_ref().map(perfdata).unwrap_or_default()),
        _ => line(state, &summary(&judged, now), &counted(&judged)),
    };
    let mut to = io::stdout().lock();
    match output.result(&mut to, &json(state, &judged, now), line).and_then(|()| to.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            unknown(output, &Error::io("write to", "standard output", e).into())
        }
        _ => state.code(),
    }
}

/// What [`check`] says of a command line that it does not understand.
pub(super) fn wrong_command_line(output: &Output, message: &str) -> ExitCode {
    unknown(output, &Error::Usage(message.to_owned()).into());
    ExitCode::SoldOut
}

fn judged(global: &Global, args: &cli::Check) -> crate::Result<Vec<Judgement>> {
    let sources = Sources::new(args.config.as_deref(), &Environment::current())?;
    let path = state_path(global)?;
    let state = StateDir::open_existing(&path, global.allow_network_fs)?;
    let server = server(global)?.map(|url| ServerJobs::connect(&url)).transpose()?;
    let is_there = state.is_some() || server.is_some();
    let nothing = format!("no job in {sources}, and none has run in {}", path.display());
    let check = Check { state, server, sources, alerts: args.alerts(), clock: &SystemClock };
    let judged = match &args.job {
        Some(job) => vec![check.job(job, |others| no_such_job(job, others))?],
        None => check.all()?,
    };
    // All is well with nothing: so says a check that looks in the wrong place.
    if !is_there && State::worst(judged.iter().map(Judgement::state)) == State::Ok {
        let why = "there is no such state directory: nothing has run yet, or the jobs run in another; set \
                   TRIPLOCK_STATE_DIR, or state_dir in /etc/triplock/config.toml";
        return Err(Error::Usage(format!("{}: {why}", path.display())));
    }
    if judged.is_empty() { Err(Error::Usage(nothing)) } else { Ok(judged) }
}

/// Nothing can be told at all.
fn unknown(output: &Output, error: &anyhow::Error) -> u8 {
    let code = State::Unknown.code();
    if output.json {
        return output::report_as(output, error, ExitCode::SoldOut);
    }
    // (On stdout, the only place where a monitoring system looks.)
    let _ = writeln!(io::stdout(), "{}", line(State::Unknown, &error.to_string(), ""));
    code
}

/// One line, in which `|` stands where it belongs only.
fn line(state: State, said: &str, perfdata: &str) -> String {
    let said = printable(said).replace('|', "\\x7c");
    let separator = if perfdata.is_empty() { "" } else { " | " };
    format!("TRIPLOCK {} - {said}{separator}{perfdata}", state.word())
}

/// A job and all that is not well with it.
fn told(judgement: &Judgement, now: DateTime<Utc>) -> String {
    let findings: Vec<_> = judgement.findings.iter().map(|finding| said(finding, now)).collect();
    let what = match (&findings[..], &judgement.figures) {
        ([], Some(figures)) => well(figures),
        _ => findings.join("; "),
    };
    format!("{}: {what}", judgement.subject)
}

fn well(figures: &Figures) -> String {
    let mut well = match figures.age {
        Some(age) => format!("its last success ended {} ago", text::span(age)),
        None => "no success yet".to_owned(),
    };
    if let Some(running) = figures.running {
        let _ = write!(well, ", running for {}", text::span(running));
    }
    well
}

fn said(finding: &Finding, now: DateTime<Utc>) -> String {
    let span = |duration: &Duration| text::span(duration.as_secs_f64());
    match finding {
        Finding::Late { every, since } => {
            format!("late: its last success ended {} ago, expected every {}", text::since(*since, now), span(every))
        }
        Finding::NeverSucceeded { every, since } => {
            format!(
                "late: no success in the {} since it is known, expected every {}",
                text::since(*since, now),
                span(every)
            )
        }
        Finding::Failing { failures: 1, last, .. } => format!("failed{}", how(last, now)),
        Finding::Failing { failures, last, .. } => format!("failed {failures} times in a row{}", how(last, now)),
        Finding::RunningLong { run, since, limit } => {
            format!("run {run} has lasted {}, expected at most {}", text::since(*since, now), span(limit))
        }
        Finding::Missed { ticks, first, is_critical: true } => {
            let ticks = if *ticks == 1 { "a tick was".to_owned() } else { format!("{ticks} ticks were") };
            format!("{ticks} run by no host, the first {} ago", text::since(*first, now))
        }
        Finding::Missed { ticks, first, is_critical: false } => {
            let ticks = if *ticks == 1 { "the tick".to_owned() } else { format!("{ticks} ticks") };
            format!("{ticks} before that of {} ago: run by no host", text::since(*first, now))
        }
        Finding::Skipping { skips: 1 } => "the last start was skipped".to_owned(),
        Finding::Skipping { skips } => format!("the last {skips} starts were skipped"),
        Finding::Orphaned { run, pid } => {
            let by = pid.map_or_else(|| "its command".to_owned(), |pid| format!("pid {pid}"));
            format!("run {run} has lost its wrapper, and {by} keeps the lock")
        }
        Finding::Stranded { runs } => {
            let (runs, wait) =
                if *runs == 1 { ("1 run".to_owned(), "waits") } else { (format!("{runs} runs"), "wait") };
            format!("{runs} {wait} in its lane without a process; `triplock queue resume` starts what is missing")
        }
        Finding::Unseen { run, since } => format!(
            "run {run} started {} ago in another pid namespace, where it cannot be seen whether it still runs",
            text::since(*since, now)
        ),
        Finding::Ahead { what, time } => {
            format!("{what} at {}, which is yet to come: the clock was set back", text::local(*time))
        }
        Finding::Broken(error) => error.to_string(),
    }
}

/// How it failed last.
fn how(last: &LastFailure, now: DateTime<Utc>) -> String {
    let last = match last {
        LastFailure::Known(last) => last,
        LastFailure::Lost => return ": its wrapper was killed, or was cut off from its server".to_owned(),
        LastFailure::Earlier => return ", and has not succeeded since".to_owned(),
    };
    let exit = last.exit.map_or_else(String::new, |code| format!(", exit {code}"));
    format!(": run {} {}{exit}, {} ago", last.run, last.outcome.word().replace('_', " "), text::since(last.end, now))
}

/// How many are how, and what is not well, the worst first.
fn summary(judged: &[Judgement], now: DateTime<Utc>) -> String {
    let jobs = if judged.len() == 1 { "job" } else { "jobs" };
    let mut bad: Vec<_> = judged.iter().filter(|judgement| judgement.state() != State::Ok).collect();
    if bad.is_empty() {
        return format!("{} {jobs}", judged.len());
    }
    bad.sort_by_key(|judgement| std::cmp::Reverse(judgement.state().severity()));
    let shown: Vec<_> = bad.iter().take(MOST).map(|judgement| told(judgement, now)).collect();
    let more = match bad.len() - shown.len() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("{} of {} {jobs}: {}{more}", bad.len(), judged.len(), shown.join("; "))
}

fn perfdata(figures: &Figures) -> String {
    let Figures { limits, age, failures, skips, running } = figures;
    let Limits { expect_every, alert_after, alert_running, alert_skips } = limits;
    let time = |limit: &Option<Duration>| limit.map(|limit| limit.as_secs_f64().to_string()).unwrap_or_default();
    // A threshold is what may be reached.
    let before = |limit: u64| (limit - 1).to_string();
    let age = age.map_or_else(|| "U".to_owned(), |age| format!("{}s", milliseconds(age)));
    let warning = if *alert_after > 1 { "0" } else { "" };
    format!(
        "age={age};;{};0 failures={failures};{warning};{};0 skips={skips};{};;0 running={}s;;{};0",
        time(expect_every),
        before(*alert_after),
        alert_skips.map(before).unwrap_or_default(),
        milliseconds(running.unwrap_or_default()),
        time(alert_running),
    )
}

fn counted(judged: &[Judgement]) -> String {
    let count = |state| judged.iter().filter(|judgement| judgement.state() == state).count();
    let [warning, critical, unknown] = [State::Warning, State::Critical, State::Unknown].map(count);
    format!("jobs={};;;0 warning={warning};0;;0 critical={critical};;0;0 unknown={unknown};;;0", judged.len())
}

fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

fn json(state: State, judged: &[Judgement], now: DateTime<Utc>) -> Value {
    let problem = |finding: &Finding| {
        let mut problem = json!({
            "problem": finding.word(), "state": finding.state(), "message": said(finding, now),
        });
        if let Finding::Broken(error) = finding {
            problem["error"] = error.kind().into();
            problem["details"] = output::details(error).into();
        }
        problem
    };
    let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64());
    let job = |judgement: &Judgement| {
        let mut job = json!({
            "job": judgement.subject,
            "state": judgement.state(),
            "problems": judgement.findings.iter().map(problem).collect::<Vec<_>>(),
        });
        if let Some(Figures { limits, age, failures, skips, running }) = &judgement.figures {
            job["age"] = json!(age.map(milliseconds));
            job["failures_in_a_row"] = (*failures).into();
            job["skips_in_a_row"] = (*skips).into();
            job["running"] = json!(running.map(milliseconds));
            job["limits"] = json!({
                "expect_every": seconds(limits.expect_every),
                "alert_after": limits.alert_after,
                "alert_running": seconds(limits.alert_running),
                "alert_skips": limits.alert_skips,
            });
        }
        job
    };
    json!({ "state": state, "exit_code": state.code(), "jobs": judged.iter().map(job).collect::<Vec<_>>() })
}
