//! A run of a job whose lock is a lease on a server, so that ten hosts can carry the same crontab.
//!
//! The order is that of a run on files ([`super::run`]), and what differs is what a lease is: it ends by itself. So:
//!
//! 1. The leases ([`leases`]), each with a token that nobody else has and a fence larger than any before.
//! 2. The start is appended under the lease's token: whoever lost it meanwhile starts nothing. What the ledger still shows as
//!    running in this slot had an earlier fence, and its lease is over: it is recorded as `lease_lost` in the same append.
//! 3. The guardian is forked, and starts the command ([`guarded`]).
//! 4. The end is appended under the token too. A run that was paused, and whose lease passed on, commits nothing, and exits
//!    with 76.
//! 5. The leases are released.
//!
//! **Once for each tick** (`--tick`). Which time a run is for, the server's clock decides ([`crate::crontab::Tick`]). The
//! ledger's sums hold the last one that was started, and an append is refused when somebody has appended since the sums
//! were read: of two hosts one starts it, the other finds it started, and records who did.

mod guarded;
mod leases;
mod ledger;
mod view;

use std::{
    ffi::OsString,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

pub(crate) use view::{ServerEntries, ServerJob, ServerJobs};

pub(crate) use self::{
    guarded::{Guarded, Keeper},
    leases::{Leases, Not, Want},
};
use self::{
    leases::{Acquired, Asking},
    ledger::ServerLedger,
};
use super::{
    course::Course,
    files::JobFiles,
    keeping::Lines as _,
    late_sync::LateSync,
    lifeline::Terms,
    model::{Ended, Event, NotRun, Outcome, RunId, Started, Ticked, Totals, seconds},
    options::{Hold, Options},
    place::Place,
    remains::unrecorded,
    run::{Done, interrupted, not_due},
    supervise::pause,
};
use crate::{
    clock::rfc3339,
    crontab::Tick,
    dir::StateDir,
    error::{Error, Result},
    exit::ExitCode,
    held::Held,
    lock::{Holder, arrived},
    name::Name,
    process::{Signals, survive_the_file_limit},
    store::{Connection, HeldLease, PATIENCE, Resource, StoreUrl},
};

/// How long a run that has its lease may take to record its start.
const STARTING: Duration = Duration::from_secs(2);

/// More missed ticks than these are not counted.
const MOST_MISSED: usize = 1000;

/// A job that is to run now.
pub(crate) struct LeasedRun<'a> {
    pub(crate) url: &'a StoreUrl,
    /// For its output.
    pub(crate) state: &'a StateDir,
    pub(crate) job: &'a Name,
    pub(crate) command: &'a [OsString],
    pub(crate) options: &'a Options,
    /// Told before a wait: which lock, and who holds it.
    pub(crate) announce: &'a dyn Fn(&str, Option<&Holder>),
}

/// What came of recording a start.
enum Start {
    Run(RunId),
    NotRun(NotRun),
}

impl LeasedRun<'_> {
    /// Runs it, or says why not.
    ///
    /// # Errors
    /// What kept triplock from running it: nothing was run.
    pub(crate) fn run(&self) -> Result<Done> {
        let terms = terms(self.options)?;
        survive_the_file_limit();
        let dir = JobFiles::make_directory(self.state)?;
        let patience = (terms.lease / 2).min(PATIENCE);
        let connection = Mutex::new(Connection::open(self.url.clone(), patience)?);
        let ledger = ServerLedger::new(&connection, self.job);
        if let Some(signal) = self.wait_a_random_time()? {
            return Ok(self.not_run(&ledger, Outcome::Interrupted, interrupted(signal), None, Duration::ZERO));
        }
        let mut held = Held::inherited_of_server(self.url.to_string(), self.state.path());
        let asking = Asking {
            connection: &connection,
            ledger: &ledger,
            options: self.options,
            terms,
            held: &held,
            job: self.job,
            announce: self.announce,
        };
        let mut acquired = asking.acquire()?;
        let patience = Instant::now() + STARTING * 2;
        while let Acquired::Busy { resource: Resource::Job(_), held, .. } = &acquired {
            if Instant::now() >= patience {
                break;
            }
            // Somebody may be about to start the very tick that this run is for: who it is, the ledger tells in a moment.
            match &self.options.tick {
                Some(tick) if is_about_to_start(&ledger, held, tick)? => {}
                _ => break,
            }
            acquired = asking.acquire()?;
        }
        let leases = match acquired {
            Acquired::Granted(leases) => leases,
            Acquired::Busy { resource, held, waited } => return Ok(self.busy(&ledger, &resource, held, waited)),
            Acquired::Nested { resource, waited } => {
                let lock = resource.key();
                let why =
                    format!("a run that this process belongs to holds lock {lock}; waiting for it would never end");
                return Ok(self.not_run(&ledger, Outcome::Refused, (why, ExitCode::NotRun.code()), None, waited));
            }
            Acquired::Interrupted { signal, waited } => {
                return Ok(self.not_run(&ledger, Outcome::Interrupted, interrupted(signal), None, waited));
            }
        };
        let signals = Signals::take().map_err(|e| Error::io("take the signals of", "this process", e))?;
        let done = self.with(&connection, &ledger, &dir, &signals, terms, leases, &mut held);
        // A signal that comes now comes too late for the run: its result stands.
        std::mem::forget(signals);
        let done = done?;
        let on_purpose = matches!(done.outcome, Outcome::Stopped | Outcome::Replaced | Outcome::Interrupted);
        let code = self.options.stop_exit_code.filter(|_| on_purpose).unwrap_or(done.code);
        Ok(Done { code, ..done })
    }

    /// Runs it under its leases.
    #[allow(clippy::too_many_arguments)] // Each is made in another step, and lives as long as all.
    fn with(
        &self,
        connection: &Mutex<Connection>,
        ledger: &ServerLedger<'_>,
        dir: &crate::dir::Dir,
        signals: &Signals,
        terms: Terms,
        leases: Leases,
        held: &mut Held,
    ) -> Result<Done> {
        let waited = leases.waited;
        let lease = leases.job().clone();
        ledger.prove(lease.clone());
        let started = match arrived() {
            Some(signal) => {
                let (why, code) = interrupted(signal);
                Ok((Start::NotRun(self.non_run(RunId(0), Outcome::Interrupted, why, None, waited)), code))
            }
            None => self.record_start(ledger, &leases).map(|start| (start, ExitCode::Success.code())),
        };
        let (start, code) = match started {
            Ok(started) => started,
            Err(e) => {
                release(connection, &leases);
                return Err(e);
            }
        };
        let run = match start {
            Start::Run(run) => run,
            Start::NotRun(not_run) => {
                release(connection, &leases);
                let NotRun { outcome, reason, holder, .. } = not_run;
                if outcome == Outcome::Interrupted {
                    return Ok(self.not_run(ledger, outcome, (reason, code), holder, waited));
                }
                return Ok(Done { why: Some(reason), holder, ..Done::of(outcome, code) });
            }
        };
        for lease in &leases.all {
            let key = match &lease.resource {
                Resource::Job(job) => job.as_str().to_owned(),
                other => other.key(),
            };
            held.add(&key, lease.fence);
        }
        // The grace that a signal or time limit starts is the lease's.
        let options = Options { kill_after: Some(terms.grace), lease: Some(terms.lease), ..self.options.clone() };
        let course = Course {
            job: self.job,
            command: self.command,
            command_line: self.command_line(),
            options: &options,
            dir,
            ledger,
            held,
            signals,
            run,
            fence: lease.fence,
            queued: false,
        };
        let run = Some((ledger, run));
        let keeper = Keeper { leases: Mutex::new(leases), slot: lease.slot, terms, connection, run };
        Ok(course.see_through(Guarded { keeper, waited, signals }, LateSync::default(), None))
    }

    /// The start of the first attempt; or why the run is not due, which is recorded then.
    fn record_start(&self, ledger: &ServerLedger<'_>, leases: &Leases) -> Result<Start> {
        let Place { boot, pid_namespace } = Place::current_or_unknown();
        let lease = leases.job();
        let wait = leases.waited;
        let mut start = None;
        let mut decide = |totals: &Totals, now: DateTime<Utc>| {
            if let Some(ours) = totals.in_slot(lease.slot).filter(|running| running.fence == lease.fence) {
                // Appended in an attempt before, whose answer was lost.
                start = Some(Start::Run(ours.run));
                return Vec::new();
            }
            let mut events: Vec<_> = lost(totals, lease.slot).map(Event::Ended).into_iter().collect();
            let tick = self.options.tick.as_ref().and_then(|tick| Some((tick, tick.nearest(now)?)));
            let done_elsewhere = tick.as_ref().and_then(|(_, time)| totals.ran(*time)).map(ran_by);
            if let Some(reason) = done_elsewhere.or_else(|| not_due(self.options, totals, now)) {
                let not_run = self.non_run(totals.next_run(), Outcome::NotDue, reason, None, wait);
                events.push(Event::NotRun(not_run.clone()));
                start = Some(Start::NotRun(not_run));
                return events;
            }
            let run = totals.next_run();
            let tick = tick.map(|(tick, time)| {
                let missed = totals
                    .tick
                    .as_ref()
                    .filter(|last| last.expression == tick.to_string())
                    .map_or(0, |last| tick.between(last.time, time, MOST_MISSED).len() as u64);
                Box::new(Ticked { time, expression: tick.to_string(), missed })
            });
            events.push(Event::Started(Started {
                run,
                attempt: 1,
                fence: lease.fence,
                slot: lease.slot,
                wait: seconds(wait),
                command: self.command_line(),
                boot: boot.clone(),
                pid_namespace,
                file: None,
                reserved: 0,
                lease: Some(seconds(lease.ttl)),
                tick,
                queued: false,
            }));
            start = Some(Start::Run(run));
            events
        };
        ledger.append_at(&mut decide)?;
        start.ok_or_else(|| Error::LockLost(self.job.clone()))
    }

    fn wait_a_random_time(&self) -> Result<Option<i32>> {
        if self.options.jitter.is_zero() {
            return Ok(None);
        }
        let failed = |e| Error::io("take the signals of", "this process", e);
        let signals = Signals::take().map_err(failed)?;
        pause(&signals, self.options.jitter.mul_f64(fastrand::f64())).map_err(failed)
    }

    /// Somebody else has the lease, or is to have it before us: it may run the very tick that this run is for.
    fn busy(&self, ledger: &ServerLedger<'_>, resource: &Resource, held: HeldLease, waited: Duration) -> Done {
        let HeldLease { holder: who, is_awaited, .. } = held;
        let what = match resource {
            Resource::Job(_) if is_awaited => "others wait for it, the first".to_owned(),
            Resource::Job(_) => "it is running already".to_owned(),
            other if is_awaited => format!("others wait for lock {}, the first", other.name()),
            other => format!("lock {} is held", other.name()),
        };
        let why = format!("{what} on {} (since {}, pid {}: {})", who.host, rfc3339(who.since), who.pid, who.command);
        // Who waits is no holder.
        let holder = (!is_awaited).then_some(who);
        let skipped = (Outcome::Skipped, why, self.options.conflict_exit_code);
        let mut told = skipped.clone();
        let recorded = ledger.observe_at(&mut |totals, now| {
            let tick = self.options.tick.as_ref().and_then(|tick| tick.nearest(now));
            told = match tick.and_then(|time| totals.ran(time)) {
                Some(ticked) => (Outcome::NotDue, ran_by(ticked), ExitCode::Success.code()),
                None => skipped.clone(),
            };
            let (outcome, reason, _) = told.clone();
            vec![Event::NotRun(self.non_run(totals.next_run(), outcome, reason, holder.clone(), waited))]
        });
        let warnings = recorded.err().map(|e| format!("not recorded: {e}")).into_iter().collect();
        let (outcome, why, code) = told;
        Done { outcome, code, why: Some(why), holder, warnings }
    }

    /// Records that there was no run.
    fn not_run(
        &self,
        ledger: &ServerLedger<'_>,
        outcome: Outcome,
        (reason, code): (String, u8),
        holder: Option<Holder>,
        waited: Duration,
    ) -> Done {
        let recorded = ledger.observe(&mut |totals| {
            vec![Event::NotRun(self.non_run(totals.next_run(), outcome, reason.clone(), holder.clone(), waited))]
        });
        let warnings = recorded.err().map(|e| format!("not recorded: {e}")).into_iter().collect();
        Done { outcome, code, why: Some(reason), holder, warnings }
    }

    fn non_run(
        &self,
        run: RunId,
        outcome: Outcome,
        reason: String,
        holder: Option<Holder>,
        waited: Duration,
    ) -> NotRun {
        NotRun { run, outcome, reason, holder, wait: seconds(waited), command: self.command_line(), queued: false }
    }

    /// The command line, shortened.
    fn command_line(&self) -> String {
        crate::lock::shortened(self.command.iter())
    }
}

/// How the lease of a run is divided.
///
/// # Errors
/// `Usage`: it is too short, or something is asked for that a lease cannot do.
fn terms(options: &Options) -> Result<Terms> {
    if options.hold == Hold::Tree {
        return Err(Error::Usage(
            "--hold tree: what a run leaves behind cannot keep a lease, which ends by itself; leave it out".to_owned(),
        ));
    }
    Terms::of(options.lease.unwrap_or(Options::LEASE), options.kill_after).map_err(Error::Usage)
}

fn release(connection: &Mutex<Connection>, leases: &Leases) {
    let mut connection = connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for lease in leases.all.iter().rev() {
        // What is not released is over when its time is.
        let _ = connection.call(|session| session.release(lease));
    }
}

/// Whether the holder of a job's lease has not recorded a start, nor given it back, for as long as it may take. Returns as
/// soon as that is told.
fn is_about_to_start(ledger: &ServerLedger<'_>, held: &HeldLease, tick: &Tick) -> Result<bool> {
    let until = Instant::now() + held.left.min(STARTING);
    loop {
        let totals = ledger.totals()?;
        let ran = tick.nearest(ledger.now()).and_then(|time| totals.ran(time));
        // The highest fence that a run has had.
        if ran.is_some() || totals.fence >= held.holder.fence.0 {
            return Ok(false);
        }
        if Instant::now() >= until {
            // It is gone, or has nothing to run: whoever asks again sees.
            return Ok(held.left < STARTING);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// How the run that the ledger still shows in that slot ended, for whoever has the slot's lease now.
fn lost(totals: &Totals, slot: u32) -> Option<Ended> {
    let running = totals.in_slot(slot)?;
    let host = running.host.as_deref().unwrap_or("its host");
    let reason = format!("{host} did not renew its lease, and did not say how it ended");
    Some(unrecorded(running, Outcome::LeaseLost, reason))
}

fn ran_by(ticked: &super::model::LastTick) -> String {
    let time = ticked.time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    format!("the tick of {time} was run by {} (run {})", ticked.host, ticked.run)
}
