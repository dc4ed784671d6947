//! `status`: every job and trip, without taking a lock.

use std::io::{self, Write as _};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    history::painted,
    server, state_path, store_in,
    table::{Cell, Paint, Table},
    text,
    unknown::{defined, no_such_job},
    written,
};
use crate::{
    cli,
    clock::{Clock as _, SystemClock},
    dir::{FileId, StateDir},
    error::Error,
    exit::ExitCode,
    job::{
        Counts, JobFiles, Last, Look, Outcome, Presence, Request, RunId, Running, ServerJobs, Slot, Totals,
        optional_time,
    },
    lock::Fence,
    name::Name,
    output::{Output, report},
    process::locks::Keeper,
    state::{TripView, Trips as _},
    store::{ServerTrips, StoreUrl},
};

/// A job as `status --json` prints it.
#[derive(Debug, Serialize)]
struct JobStatus {
    kind: &'static str,
    job: Name,
    state: &'static str,
    /// What has the locks.
    holders: Vec<Holder>,
    /// Runs that ended without a record.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<RunId>,
    last: Option<Last>,
    last_not_run: Option<Last>,
    #[serde(serialize_with = "optional_time::serialize")]
    last_success: Option<DateTime<Utc>>,
    counts: Counts,
    last_run: u64,
    fence: u64,
    /// How many runs wait in its lane.
    queued: u64,
    /// Whether that is paused.
    paused: bool,
}

/// What has one lock.
#[derive(Debug, Serialize)]
struct Holder {
    state: &'static str,
    slot: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<RunId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<Fence>,
    #[serde(serialize_with = "optional_time::serialize")]
    since: Option<DateTime<Utc>>,
    /// On which host, of a lease on a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    pid: Option<u32>,
    command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_requested: Option<Request>,
    /// It is older than the end of the last run: that one left it behind.
    #[serde(skip)]
    is_leftover: bool,
}

/// A trip as `status --json` prints it.
#[derive(Debug, Serialize)]
struct TripStatus {
    kind: &'static str,
    state: &'static str,
    pid: Option<u32>,
    command: Option<String>,
    #[serde(flatten)]
    view: TripView,
}

/// Prints all, or the job and the trip of one name.
pub(super) fn status(output: &Output, global: &cli::Global, name: Option<&Name>) -> anyhow::Result<ExitCode> {
    if let Some(url) = server(global)? {
        return of_server(output, &url, name);
    }
    let path = state_path(global)?;
    let state = StateDir::open_existing(&path, global.allow_network_fs)?;
    let mut code = ExitCode::Success;
    let mut broken = |e: Error| code = report(output, &anyhow::Error::from(e), || None);
    let trip_locks = state.as_ref().map(|state| state.subdirectory("trips")).transpose()?.flatten();
    let mut wanted = match state.as_ref().map(JobFiles::directory).transpose()?.flatten() {
        Some(dir) => JobFiles::all(&dir)?,
        None => Vec::new(),
    };
    let mut known: Vec<_> = wanted.iter().map(|(files, _)| files.job.clone()).collect();
    let is_wanted = |job: &Name| name.is_none_or(|name| job == name);
    wanted.retain(|(files, _)| is_wanted(&files.job));
    let never_run: Vec<_> = defined().into_iter().filter(|job| !known.contains(job)).collect();
    known.extend(never_run.iter().cloned());
    let store = state.map(|state| store_in(output, state));
    let trips = match (&store, name) {
        (None, _) => Vec::new(),
        (Some(store), None) => store.list()?,
        (Some(store), Some(name)) => match store.show(name) {
            Err(Error::NoSuchTrip(_)) => Vec::new(),
            view => vec![view],
        },
    };
    // What the locks are compared with is read before them.
    let mut read = Vec::new();
    for (files, slots) in wanted {
        match files.totals() {
            Ok(totals) => read.push((files, slots, totals.unwrap_or_default())),
            Err(e) => broken(e),
        }
    }
    let look = Look::now()?;
    let mut jobs = Vec::new();
    for (files, slots, totals) in read {
        let (totals, slots) = look.slots(&files, totals, &slots)?;
        let paused = files.is_paused()?;
        jobs.push(JobStatus { paused, ..JobStatus::new(files.job, totals, slots) });
    }
    let never_run = never_run.into_iter().filter(is_wanted);
    jobs.extend(never_run.map(|job| JobStatus::new(job, Totals::default(), Vec::new())));
    jobs.sort_by(|one, other| one.job.cmp(&other.job));
    let mut shown = Vec::new();
    for view in trips {
        match view {
            Ok(view) => {
                let file = match &trip_locks {
                    Some(dir) => dir.stat(&format!("{}.lock", view.trip))?,
                    None => None,
                };
                shown.push(TripStatus::new(view, file.map(|stat| stat.id), &look)?);
            }
            Err(e) => broken(e),
        }
    }
    if jobs.is_empty() && shown.is_empty() && code == ExitCode::Success {
        match name {
            Some(name) => return Err(no_such_job(name, &known).into()),
            None => output.message(&format!("no jobs and no trips in {}", path.display())),
        }
    }
    let mut to = io::BufWriter::new(io::stdout().lock());
    let printed = print(output, &mut to, &jobs, &shown);
    Ok(written(printed.and_then(|()| to.flush()), code)?)
}

/// The same of a server: its leases say what runs, on whatever host.
fn of_server(output: &Output, url: &StoreUrl, name: Option<&Name>) -> anyhow::Result<ExitCode> {
    let is_wanted = |job: &Name| name.is_none_or(|name| job == name);
    let server = ServerJobs::connect(url)?;
    let store = ServerTrips::new(url.clone());
    let mut jobs: Vec<_> =
        server.all()?.into_iter().map(|job| JobStatus::new(job.job, job.totals, job.slots)).collect();
    let mut known: Vec<_> = jobs.iter().map(|job| job.job.clone()).collect();
    let never_run: Vec<_> = defined().into_iter().filter(|job| !known.contains(job)).collect();
    known.extend(never_run.iter().cloned());
    jobs.extend(never_run.into_iter().map(|job| JobStatus::new(job, Totals::default(), Vec::new())));
    jobs.retain(|job| is_wanted(&job.job));
    jobs.sort_by(|one, other| one.job.cmp(&other.job));
    let trips = match name {
        None => store.list()?,
        Some(name) => match store.show(name) {
            Err(Error::NoSuchTrip(_)) => Vec::new(),
            view => vec![view],
        },
    };
    // A trip on a server is locked within one request: nobody can be seen to hold it.
    let trips = trips.into_iter().map(|view| view.map(TripStatus::idle)).collect::<crate::Result<Vec<_>>>()?;
    if jobs.is_empty() && trips.is_empty() {
        match name {
            Some(name) => return Err(no_such_job(name, &known).into()),
            None => output.message(&format!("no jobs and no trips in {url}")),
        }
    }
    let mut to = io::BufWriter::new(io::stdout().lock());
    let printed = print(output, &mut to, &jobs, &trips);
    Ok(written(printed.and_then(|()| to.flush()), ExitCode::Success)?)
}

fn print(output: &Output, to: &mut impl io::Write, jobs: &[JobStatus], trips: &[TripStatus]) -> io::Result<()> {
    if output.json {
        jobs.iter().try_for_each(|job| output.result(to, job, || ""))?;
        return trips.iter().try_for_each(|trip| output.result(to, trip, || ""));
    }
    if output.quiet {
        return Ok(());
    }
    if !jobs.is_empty() {
        job_rows(jobs).print(to, output.in_color())?;
    }
    if !jobs.is_empty() && !trips.is_empty() {
        writeln!(to)?;
    }
    if !trips.is_empty() {
        trip_rows(trips).print(to, output.in_color())?;
    }
    Ok(())
}

impl JobStatus {
    fn new(job: Name, totals: Totals, slots: Vec<Slot>) -> Self {
        let mut lost = Vec::new();
        let mut holders = Vec::new();
        for Slot { number, presence, .. } in slots {
            match presence {
                Presence::Free => {}
                Presence::Lost(run) => lost.push(run.run),
                Presence::Running(run) => holders.push(Holder::of_run("running", &run, Some(run.pid))),
                Presence::Leased(run, lease) => holders.push(Holder::of_lease(number, run.as_ref(), lease)),
                Presence::Unknown(run) => holders.push(Holder::of_run("unknown", &run, None)),
                Presence::Orphaned(run, keepers) => {
                    let keeper = keepers.first().map(|keeper| keeper.pid);
                    holders.push(Holder::of_run("orphaned", &run, keeper));
                }
                Presence::Kept(keepers) => holders.push(Holder::without_run(number, &keepers, totals.last.as_ref())),
            }
        }
        let state = ["running", "orphaned", "held", "unknown"];
        let state = state.into_iter().find(|state| holders.iter().any(|holder| holder.state == *state));
        Self {
            kind: "job",
            job,
            state: state.unwrap_or("idle"),
            holders,
            lost,
            last_success: totals.last_success(),
            last: totals.last,
            last_not_run: totals.last_not_run,
            counts: totals.counts,
            last_run: totals.last_run,
            fence: totals.fence,
            queued: totals.queued,
            paused: false,
        }
    }

    /// The last run, or what kept a later one from running and is nobody's wish.
    fn latest(&self) -> Option<&Last> {
        let not_run = self.last_not_run.as_ref().filter(|last| last.outcome.is_failure());
        self.last.iter().chain(not_run).max_by_key(|last| last.run)
    }

    fn runs(&self) -> u64 {
        let counted = |outcome: &Outcome| outcome.has_run() || outcome.is_failure();
        Outcome::ALL.into_iter().filter(counted).map(|outcome| self.counts.of(outcome)).sum()
    }

    /// Of those that were to run, so that it compares with [`JobStatus::runs`].
    fn failures(&self) -> u64 {
        Outcome::ALL.into_iter().filter(|outcome| outcome.is_failure()).map(|outcome| self.counts.of(outcome)).sum()
    }
}

impl Holder {
    fn of_run(state: &'static str, run: &Running, pid: Option<u32>) -> Self {
        Self {
            state,
            slot: run.slot,
            run: Some(run.run),
            attempt: Some(run.attempt),
            fence: Some(run.fence),
            since: Some(run.start),
            host: None,
            pid: pid.or(Some(run.pid)),
            command: pid.and_then(command),
            end_requested: run.ending,
            is_leftover: false,
        }
    }

    /// Of a run wherever it is, or of a lease that has none: its run is about to start, or has just ended.
    fn of_lease(slot: u32, run: Option<&Running>, lease: crate::lock::Holder) -> Self {
        Self {
            state: if run.is_some() { "running" } else { "held" },
            slot,
            run: run.map(|run| run.run),
            attempt: run.map(|run| run.attempt),
            fence: Some(lease.fence),
            since: Some(run.map_or(lease.since, |run| run.start)),
            host: Some(lease.host),
            pid: Some(lease.pid),
            command: Some(lease.command),
            end_requested: run.and_then(|run| run.ending),
            is_leftover: false,
        }
    }

    fn without_run(slot: u32, keepers: &[Keeper], last: Option<&Last>) -> Self {
        let pid = keepers.first().map(|keeper| keeper.pid);
        let since = pid.and_then(super::why::started);
        Self {
            state: "held",
            slot,
            run: None,
            attempt: None,
            fence: None,
            since,
            host: None,
            pid,
            command: pid.and_then(command),
            end_requested: None,
            is_leftover: since.zip(last).is_some_and(|(since, last)| since < last.end),
        }
    }
}

impl TripStatus {
    fn idle(view: TripView) -> Self {
        Self { kind: "trip", state: "idle", pid: None, command: None, view }
    }

    fn new(view: TripView, file: Option<FileId>, look: &Look) -> crate::Result<Self> {
        let keepers = file.map(|file| look.keepers(file)).transpose()?.flatten();
        let state = if keepers.is_some() { "locked" } else { "idle" };
        let pid = keepers.and_then(|keepers| keepers.first().map(|keeper| keeper.pid));
        Ok(Self { kind: "trip", state, pid, command: pid.and_then(command), view })
    }
}

fn job_rows(jobs: &[JobStatus]) -> Table<11> {
    let now = SystemClock.now();
    let mut table = Table::new([
        "JOB", "STATE", "SINCE", "PID:", "LAST", "ENDED", "RUNS:", "FAILED:", "SKIPPED:", "COMMAND", "WAITING:",
    ]);
    for job in jobs {
        let ago = |last: &Last| format!("{} ago", text::since(last.end, now));
        let mut row: [Cell; 11] = [
            job.job.as_str().into(),
            if job.paused { Cell::painted("paused", Paint::Notable) } else { "idle".into() },
            Cell::default(),
            Cell::default(),
            match job.latest() {
                Some(last) => painted(last.outcome),
                None if job.holders.is_empty() => "never run".into(),
                None => Cell::default(),
            },
            job.latest().map(ago).unwrap_or_default().into(),
            job.runs().to_string().into(),
            job.failures().to_string().into(),
            job.counts.of(Outcome::Skipped).to_string().into(),
            Cell::default(),
            if job.queued > 0 { job.queued.to_string().into() } else { Cell::default() },
        ];
        if let Some(run) = job.lost.first() {
            row[4] = Cell::painted("lost", Paint::Bad);
            row[5] = format!("run {run}").into();
        }
        for holder in &job.holders {
            row[1] = holder.shown();
            row[2] = holder.since.map(text::local).unwrap_or_default().into();
            row[3] = holder.pid.map(|pid| pid.to_string()).unwrap_or_default().into();
            let command = holder.command.clone().unwrap_or_default();
            row[9] =
                holder.host.as_ref().map_or_else(|| command.clone(), |host| format!("on {host}: {command}")).into();
            table.push(std::mem::take(&mut row));
        }
        if job.holders.is_empty() {
            table.push(row);
        }
    }
    table
}

impl Holder {
    fn shown(&self) -> Cell {
        match (self.state, self.end_requested) {
            ("running", None) => Cell::painted("running", Paint::Active),
            ("running", Some(Request::Stop)) => Cell::painted("stopping", Paint::Notable),
            ("running", Some(Request::Replace)) => Cell::painted("being replaced", Paint::Notable),
            ("orphaned", _) => Cell::painted("held by a leftover, its wrapper is gone", Paint::Bad),
            ("held", _) if self.is_leftover => Cell::painted("held by a leftover", Paint::Notable),
            ("held", _) if self.pid.is_some() => Cell::painted("held, and no run is recorded", Paint::Notable),
            ("held", _) => Cell::painted("held by a process that this user may not look into", Paint::Notable),
            _ => Cell::painted("unknown (started in another pid namespace)", Paint::Notable),
        }
    }
}

fn trip_rows(trips: &[TripStatus]) -> Table<7> {
    let mut table = Table::new(["TRIP", "STATE", "PID:", "SEATS:", "LEFT:", "BOOKINGS:", "COMMAND"]);
    for trip in trips {
        let totals = &trip.view.totals;
        table.push([
            trip.view.trip.as_str().into(),
            if trip.state == "locked" { Cell::painted("locked", Paint::Active) } else { "idle".into() },
            trip.pid.map(|pid| pid.to_string()).unwrap_or_default().into(),
            totals.seats.to_string().into(),
            totals.seats_left.to_string().into(),
            totals.bookings.to_string().into(),
            trip.command.clone().unwrap_or_default().into(),
        ]);
    }
    table
}

/// A process's command line, if it is there.
pub(super) fn command(pid: u32) -> Option<String> {
    crate::process::command_line(pid)
}
