//! `queue`.

use std::io;

use serde::Serialize;

use super::{
    server, state_path,
    table::{Cell, Paint, Table},
    text, written,
};
use crate::{
    cli::{self, Global, Target},
    dir::{Environment, StateDir},
    error::{Error, Result},
    exit::ExitCode,
    job::{
        JobFiles, LaneRun, Outcome, RunId,
        definition::{Resolved, Sources},
    },
    name::Name,
    output::{Failure, Output, report},
    queue::{self, Added, Cancelled, Ending, Listed, Queue, Request, Waits},
};

/// How many logs are kept of queued runs, unless told otherwise: whoever queues a thousand over night wants to read them.
const KEEP_RUNS: u32 = 1000;

pub(super) fn queue(output: &Output, global: &Global, command: cli::Queue) -> anyhow::Result<u8> {
    if server(global)?.is_some() {
        return Err(Error::Usage(
            "a queue is of one machine's files, and this host's store is a server; add --store files, with lanes of other names than the server's jobs"
                .to_owned(),
        )
        .into());
    }
    let code = match command {
        cli::Queue::Wait { runs } => return wait(output, existing(global)?.as_ref(), &runs),
        cli::Queue::Add(args) => add(output, global, &args)?,
        cli::Queue::List { lane } => list(output, existing(global)?.as_ref(), lane.as_ref())?,
        cli::Queue::Cancel { runs } => cancel(output, existing(global)?.as_ref(), &runs)?,
        cli::Queue::Retry { run } => retry(output, existing(global)?.as_ref(), &run)?,
        cli::Queue::Pause { lane } => pause(output, global, &lane)?,
        cli::Queue::Resume { lane } => resume(output, existing(global)?.as_ref(), lane.as_ref())?,
    };
    Ok(code.code())
}

/// The process of a queued run.
pub(super) fn process(global: &Global, args: &cli::QueuedProcess) -> anyhow::Result<ExitCode> {
    let state = existing(global)?.ok_or_else(|| no_such_lane(&args.run.lane))?;
    queue::adopt(&state, &args.run, args.descriptor)?;
    Ok(ExitCode::Success)
}

fn existing(global: &Global) -> Result<Option<StateDir>> {
    StateDir::open_existing(&state_path(global)?, global.allow_network_fs)
}

fn no_such_lane(lane: &Name) -> Error {
    Error::NoSuchJob {
        job: lane.clone(),
        why: "nothing was ever queued there (a run is LANE/NUMBER); `triplock status` shows the lanes".to_owned(),
    }
}

fn add(output: &Output, global: &Global, args: &cli::QueueAdd) -> Result<ExitCode> {
    let sources = Sources::new(args.course.config.as_deref(), &Environment::current())?;
    let settings = args.settings();
    let keep_runs = settings.keep_runs.unwrap_or(KEEP_RUNS);
    let resolved = sources.resolve(&args.lane, args.command.clone(), settings);
    let Resolved { command, mut options, .. } = resolved.map_err(|e| match e {
        Error::NoSuchJob { job, .. } if args.command.is_empty() => Error::Usage(format!(
            "a command is missing: `triplock queue add {job} -- COMMAND` (only a job that a job file defines is queued without)"
        )),
        e => e,
    })?;
    if command.first().is_some_and(|word| word.is_empty()) {
        return Err(Error::Usage("the command is an empty word; give a program".to_owned()));
    }
    if !args.command.is_empty() {
        options.keep_runs = keep_runs;
    }
    let state = StateDir::open(state_path(global)?, global.allow_network_fs)?;
    let mut request = Request::here(&args.lane, &command, options)?;
    request.after.clone_from(&args.after);
    request.even_if_failed = args.even_if_failed;
    let added = queue::add(&state, &args.lane, request)?;
    tell_added(output, &args.lane, &added)
}

fn tell_added(output: &Output, lane: &Name, added: &Added) -> Result<ExitCode> {
    #[derive(Serialize)]
    struct Line<'a> {
        run: &'a LaneRun,
        lane: &'a Name,
        number: RunId,
    }
    match added {
        Added::Queued { run, is_paused } => {
            let added = Line { run, lane: &run.lane, number: run.run };
            // Also when quiet: it is what was asked for, and the only way to find the run again.
            let loud = Output { quiet: false, ..output.clone() };
            let told = written(loud.result(&mut io::stdout().lock(), &added, || run), ExitCode::Success);
            if *is_paused {
                output.message(&self::is_paused(lane));
            }
            told
        }
        Added::Full(waiting) => {
            let message = format!("lane {lane} is full: {waiting} runs wait there; try later, or use another lane");
            fail(output, "queue_full", message, ExitCode::Busy, [("lane", lane.as_str())]);
            Ok(ExitCode::Busy)
        }
    }
}

fn fail<const N: usize>(output: &Output, error: &str, message: String, code: ExitCode, details: [(&str, &str); N]) {
    let details = details.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    output.failure(&Failure { error, message, exit_code: code.code(), details });
}

/// The queue of that lane.
fn queue_of(state: Option<&StateDir>, lane: &Name) -> Result<Queue> {
    let queue = state.map(|state| Queue::open(state, lane)).transpose()?.flatten();
    queue.ok_or_else(|| no_such_lane(lane))
}

/// The queues of that lane, or of all; one of those that cannot be opened is told of, and keeps nobody back.
fn queues(output: &Output, state: Option<&StateDir>, lane: Option<&Name>) -> Result<(Vec<Queue>, ExitCode)> {
    let all = match (state, lane) {
        (_, Some(lane)) => return Ok((vec![queue_of(state, lane)?], ExitCode::Success)),
        (Some(state), None) => Queue::all(state)?,
        (None, None) => Vec::new(),
    };
    let (mut queues, mut code) = (Vec::new(), ExitCode::Success);
    for queue in all {
        match queue {
            Ok(queue) => queues.push(queue),
            Err(e) => code = report(output, &e.into(), || None),
        }
    }
    Ok((queues, code))
}

fn list(output: &Output, state: Option<&StateDir>, lane: Option<&Name>) -> Result<ExitCode> {
    let mut listed = Vec::new();
    let (queues, mut code) = queues(output, state, lane)?;
    for queue in queues {
        // One that cannot be read hides no other.
        match queue.is_paused().and_then(|is_paused| Ok((is_paused, queue.list()?))) {
            Ok((is_paused, runs)) => {
                if is_paused {
                    output.message(&self::is_paused(queue.name()));
                }
                listed.extend(runs);
            }
            Err(e) => code = worse(code, report(output, &e.into(), || None)),
        }
    }
    if listed.is_empty() && code == ExitCode::Success {
        output.message("nothing runs, and nothing waits");
    }
    let mut to = io::BufWriter::new(io::stdout().lock());
    let printed = if output.json {
        listed.iter().try_for_each(|run| output.result(&mut to, run, || ""))
    } else if output.quiet || listed.is_empty() {
        Ok(())
    } else {
        rows(&listed).print(&mut to, output.in_color())
    };
    written(printed.and_then(|()| io::Write::flush(&mut to)), code)
}

fn rows(listed: &[Listed]) -> Table<6> {
    let mut table = Table::new(["RUN", "STATE", "SINCE", "AFTER", "COMMAND", "NOTE"]);
    for run in listed {
        let paint = match run.state {
            Waits::Running => Paint::Active,
            Waits::Stranded => Paint::Bad,
            Waits::Paused | Waits::Waiting => Paint::Notable,
        };
        table.push([
            run.run.to_string().into(),
            Cell::painted(run.state.word(), paint),
            run.since.map_or_else(String::new, text::local).into(),
            run.after.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ").into(),
            run.command.clone().unwrap_or_default().into(),
            run.note.clone().unwrap_or_default().into(),
        ]);
    }
    table
}

fn wait(output: &Output, state: Option<&StateDir>, targets: &[Target]) -> anyhow::Result<u8> {
    let mut runs = Vec::new();
    for target in targets {
        match target {
            Target::Run(run) => runs.push(run.clone()),
            Target::Lane(lane) => {
                let queue = queue_of(state, lane)?;
                let listed = queue.list()?.into_iter().filter(|run| run.queued.is_some());
                let before = runs.len();
                runs.extend(listed.map(|run| run.run));
                if runs.len() == before {
                    output.message(&format!("nothing runs and nothing waits in lane {lane} (any more)"));
                }
                if queue.is_paused()? {
                    output.message(&is_paused(lane));
                }
            }
        }
    }
    let mut code = 0;
    for run in runs {
        let ended = match state {
            Some(state) => queue::wait(state, &run),
            None => Err(no_such_lane(&run.lane)),
        };
        let own = match ended {
            Ok(ending) => {
                tell_ending(output, &run, &ending)?;
                ending.code()
            }
            // Waiting would never end, and neither would the run.
            Err(e @ Error::Nested(_)) => crate::output::report_as(output, &e.into(), ExitCode::NotRun),
            Err(e) => report(output, &e.into(), || None).code(),
        };
        if code == 0 {
            code = own;
        }
    }
    Ok(code)
}

fn tell_ending(output: &Output, run: &LaneRun, ending: &Ending) -> Result<()> {
    let (Ending::Over(view) | Ending::Stranded(view)) = ending;
    let message = match (ending, view.outcome) {
        (Ending::Stranded(_), _) => {
            let why = view.reason.as_deref().unwrap_or_default();
            Some(format!("{run} was not run: {why}; `triplock queue resume {}` gives it another process", run.lane))
        }
        (_, Some(Outcome::Succeeded | Outcome::NotDue)) => None,
        (_, outcome) => {
            let word = outcome.map_or("unknown", Outcome::word);
            let how = match (view.signal, view.exit, &view.reason) {
                (_, _, Some(reason)) => format!(": {reason}"),
                (Some(signal), ..) => format!(": signal {}", crate::job::signal::name(signal)),
                (None, Some(code), _) => format!(": exit code {code}"),
                _ => String::new(),
            };
            Some(format!("{run} {}{how}", word.replace('_', " ")))
        }
    };
    if output.json {
        written(output.result(&mut io::stdout().lock(), view, || ""), ExitCode::Success)?;
    } else if let Some(message) = message {
        output.message(&message);
    }
    Ok(())
}

fn cancel(output: &Output, state: Option<&StateDir>, targets: &[Target]) -> Result<ExitCode> {
    let mut worst = ExitCode::Success;
    for target in targets {
        let (lane, run) = match target {
            Target::Run(run) => (&run.lane, Some(run.run)),
            Target::Lane(lane) => (lane, None),
        };
        let queue = match queue_of(state, lane) {
            Ok(queue) => queue,
            Err(e) => {
                worst = worse(worst, report(output, &e.into(), || None));
                continue;
            }
        };
        let runs = match run {
            Some(run) => vec![run],
            None => queue.pending()?.into_iter().map(|pending| pending.run).collect(),
        };
        if runs.is_empty() {
            output.message(&format!("nothing waits in lane {lane}"));
        }
        for (run, cancelled) in runs.iter().zip(queue::cancel(&queue, &runs)?) {
            let run = queue.run(*run);
            let id = run.to_string();
            let code = match cancelled {
                Ok(Cancelled::Done) => {
                    if output.json {
                        let told = serde_json::json!({ "run": id, "what": "cancelled" });
                        written(output.result(&mut io::stdout().lock(), &told, || ""), ExitCode::Success)?;
                    }
                    output.message(&format!("{run}: cancelled"));
                    continue;
                }
                Ok(Cancelled::Running) => {
                    let message = format!("{run} runs already; `triplock stop {lane}` ends what runs in its lane");
                    fail(output, "running", message, ExitCode::Refused, [("run", &id)]);
                    ExitCode::Refused
                }
                Ok(Cancelled::Over) => {
                    fail(output, "over", format!("{run} is over already"), ExitCode::Refused, [("run", &id)]);
                    ExitCode::Refused
                }
                Err(e) => report(output, &e.into(), || None),
            };
            worst = worse(worst, code);
        }
    }
    Ok(worst)
}

/// The first that is not success.
fn worse(first: ExitCode, next: ExitCode) -> ExitCode {
    if first == ExitCode::Success { next } else { first }
}

fn retry(output: &Output, state: Option<&StateDir>, run: &LaneRun) -> Result<ExitCode> {
    let state = state.ok_or_else(|| no_such_lane(&run.lane))?;
    match queue::retry(state, run)? {
        Some(added) => tell_added(output, &run.lane, &added),
        None => {
            let message = format!("{run} is not over yet; `triplock queue list {}` shows how it stands", run.lane);
            fail(output, "not_over", message, ExitCode::Refused, [("run", &run.to_string())]);
            Ok(ExitCode::Refused)
        }
    }
}

fn pause(output: &Output, global: &Global, lane: &Name) -> Result<ExitCode> {
    let state = StateDir::open(state_path(global)?, global.allow_network_fs)?;
    let is_known = JobFiles::new(JobFiles::make_directory(&state)?, lane.clone()).exist()?;
    Queue::make(&state, lane)?.pause()?;
    if !is_known {
        output.message(&format!("nothing was ever run or queued in lane {lane}"));
    }
    tell_of_pause(output, lane, true)
}

fn resume(output: &Output, state: Option<&StateDir>, lane: Option<&Name>) -> Result<ExitCode> {
    #[derive(Serialize)]
    struct Line<'a> {
        run: &'a LaneRun,
        /// `resumed`, `cut_off` or `failed`.
        what: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'a str>,
    }
    let mut to = io::stdout().lock();
    let mut is_anything = false;
    let (queues, mut code) = queues(output, state, lane)?;
    // Who means all lanes brings a machine up again: what somebody paused stays paused.
    let ends_pauses = lane.is_some();
    let all = state.map_or_else(|| Ok(Vec::new()), |state| queue::resume(state, &queues, ends_pauses))?;
    for (queue, resumed) in queues.iter().zip(all) {
        let resumed = match resumed {
            Ok(resumed) => resumed,
            Err(e) => {
                is_anything = true;
                code = worse(code, report(output, &e.into(), || None));
                continue;
            }
        };
        let mut tell = |run: RunId, what, why: Option<&str>, words: &str| {
            is_anything = true;
            let run = queue.run(run);
            let printed = output.result(&mut to, &Line { run: &run, what, why }, || format!("{run}: {words}"));
            written(printed, ExitCode::Success)
        };
        for run in resumed.cut_off {
            let again = format!("was cut off while it ran; `triplock queue retry {}` queues it again", queue.run(run));
            tell(run, "cut_off", None, &again)?;
        }
        for run in resumed.started {
            tell(run, "resumed", None, "waits in its lane again")?;
        }
        for (run, why) in resumed.failed {
            code = worse(code, ExitCode::Refused);
            tell(run, "failed", Some(&why), &format!("could not be resumed: {why}"))?;
        }
        if resumed.was_paused {
            is_anything = true;
            tell_of_pause(output, queue.name(), !ends_pauses)?;
        }
    }
    if !is_anything {
        output.message("nothing to resume: every run that waits has its process");
    }
    if let (Some(state), Some(lane)) = (state, lane) {
        tell_of_other_lanes(output, state, lane);
    }
    Ok(code)
}

/// What follows a run of the lane may have lost its process with that.
fn tell_of_other_lanes(output: &Output, state: &StateDir, resumed: &Name) {
    // What cannot be read there was not asked for.
    let others = Queue::all(state).unwrap_or_default().into_iter().flatten();
    for queue in others.filter(|queue| queue.name() != resumed) {
        let stranded = queue::stranded(queue.files()).unwrap_or_default();
        if stranded > 0 {
            let lane = queue.name();
            let runs = if stranded == 1 { "a run has" } else { "runs have" };
            output.message(&format!("in lane {lane}, too, {runs} no process; `triplock queue resume {lane}`"));
        }
    }
}

fn is_paused(lane: &Name) -> String {
    format!("lane {lane} is paused; `triplock queue resume {lane}` ends that")
}

/// Whether a lane is paused now.
fn tell_of_pause(output: &Output, lane: &Name, paused: bool) -> Result<ExitCode> {
    #[derive(Serialize)]
    struct Line<'a> {
        lane: &'a Name,
        paused: bool,
    }
    if output.json {
        return written(output.result(&mut io::stdout().lock(), &Line { lane, paused }, || ""), ExitCode::Success);
    }
    output.message(&if paused { is_paused(lane) } else { format!("lane {lane} is paused no more") });
    Ok(ExitCode::Success)
}
