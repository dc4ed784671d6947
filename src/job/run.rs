//! One run of a job, from asking for its lock to the line in its ledger.
//!
//! The order, and what each step prevents:
//!
//! 1. The locks ([`super::acquire`]). Who does not get them leaves a line that says why, and who held them.
//! 2. Under the job's lock: whatever the ledger still shows as running in this slot is over, since we hold its lock. Its
//!    end is recorded in the same append as our start, so no run vanishes.
//! 3. Our start is appended before the command is started, with a fence that is never given twice: one that is
//!    reserved on disk, else the start itself is synced first ([`super::fences`]). If that fails (a full disk), nothing is
//!    run. A start that was not synced is synced while the command runs, or with its end ([`super::late_sync`]).
//! 4. The command inherits the locks' descriptors. From now on a killed wrapper frees nothing that still runs.
//! 5. Its end is appended first, then the locks are released, then the ledger is synced: whoever gets the lock next finds
//!    our end, and does not wait for our disk.

use std::{ffi::OsString, sync::Arc, time::Duration};

use super::{
    acquire::{Acquired, Asking, Locks},
    admission::{Admission, Admitted, Standing},
    course::Course,
    files::JobFiles,
    holding::By,
    late_sync::LateSync,
    ledger::JobLedger,
    log::UnnamedLog,
    model::{Ended, Event, NotRun, Outcome, RunId, Started, Totals, seconds},
    options::Options,
    place::Place,
    remains::remains,
    supervise::pause,
};
use crate::{
    clock::SystemClock,
    dir::StateDir,
    error::{Error, Result},
    exit::ExitCode,
    held::Held,
    lock::{Fence, Guard as _, Holder, Identity, arrived},
    name::Name,
    process::{Signals, survive_the_file_limit},
};

/// A job that is to run now.
pub(crate) struct Run<'a> {
    pub(crate) state: &'a StateDir,
    pub(crate) job: &'a Name,
    pub(crate) command: &'a [OsString],
    pub(crate) options: &'a Options,
    /// Of a run that was queued.
    pub(crate) queued: Option<&'a dyn Admission>,
    /// Told before a wait: which lock, and who holds it.
    pub(crate) announce: &'a dyn Fn(&str, Option<&Holder>),
}

/// What recording the start came to.
// There is one, and it is moved once.
#[allow(clippy::large_enum_variant)]
enum Start {
    Recorded(RunId, Fence, LateSync),
    NotDue(String),
    /// The queued run may not start now, or not at all.
    Withheld(Standing),
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    /// For the caller of the process.
    pub(crate) code: u8,
    /// What happened, for people, when there is something to say.
    pub(crate) why: Option<String>,
    /// Who held the lock.
    pub(crate) holder: Option<Holder>,
    /// What went wrong besides, and did not change the outcome.
    pub(crate) warnings: Vec<String>,
}

impl Done {
    pub(super) fn of(outcome: Outcome, code: u8) -> Self {
        Self { outcome, code, why: None, holder: None, warnings: Vec::new() }
    }
}

impl Run<'_> {
    /// Runs it, or says why not.
    ///
    /// # Errors
    /// What kept triplock from running it: nothing was run.
    pub(crate) fn run(&self) -> Result<Done> {
        let done = self.see_through()?;
        let on_purpose = matches!(done.outcome, Outcome::Stopped | Outcome::Replaced | Outcome::Interrupted);
        let code = self.options.stop_exit_code.filter(|_| on_purpose).unwrap_or(done.code);
        Ok(Done { code, ..done })
    }

    fn see_through(&self) -> Result<Done> {
        survive_the_file_limit();
        let files = JobFiles::new(JobFiles::make_directory(self.state)?, self.job.clone());
        let ledger = JobLedger::new(files.clone(), Arc::new(self.identity()), Arc::new(SystemClock));
        if let Some(signal) = self.wait_a_random_time()? {
            return Ok(self.not_run(&ledger, Outcome::Interrupted, interrupted(signal), None, Duration::ZERO));
        }
        let locks = ledger.locks();
        // Before a wait, so that less is left to do when it is over.
        let place = Place::current_or_unknown();
        let unnamed = self.queued.and_then(|_| UnnamedLog::make(&files.dir, self.job));
        if self.queued.is_some() {
            // Opens the files, and has the code at hand.
            let _nothing = ledger.append_start(&place.boot, |_, _| Vec::new());
        }
        let named = if self.options.locks.is_empty() { None } else { Some(ledger.named_locks(self.state)?) };
        // Whoever queued a run does not wait for it.
        let mut held = match self.queued {
            None => Held::inherited(self.state.path()),
            Some(_) => Held::none(self.state.path()),
        };
        let asking = Asking {
            files: &files,
            options: self.options,
            ledger: &ledger,
            locks: &locks,
            named: named.as_ref(),
            held: &held,
            ticket: self.queued.map(Admission::ticket),
            announce: self.announce,
        };
        let (locks, signals, start) = loop {
            match self.queued.map(Admission::wait).transpose()? {
                None | Some(Admitted::Yes) => {}
                Some(Admitted::No { outcome, reason }) => {
                    let why = (reason, ExitCode::NotRun.code());
                    return Ok(self.not_run(&ledger, outcome, why, None, Duration::ZERO));
                }
                Some(Admitted::Stranded) => return Ok(Done::of(Outcome::Interrupted, ExitCode::NotRun.code())),
            }
            let acquired = asking.acquire().inspect_err(|e| {
                // What is wrong is what matters. (A queued run keeps its place.)
                let _ = self.queued.is_none().then(|| Self::refuse(self.state, self.job, e, &self.command_line()));
            });
            let mut locks = match acquired? {
                Acquired::Granted(locks) => locks,
                Acquired::Busy { lock, by, waited } => return Ok(self.busy(&files, &ledger, &lock, by, waited)),
                Acquired::Nested { lock, waited } => {
                    let why =
                        format!("a run that this process belongs to holds lock {lock}; waiting for it would never end");
                    return Ok(self.not_run(&ledger, Outcome::Refused, (why, ExitCode::NotRun.code()), None, waited));
                }
                Acquired::Interrupted { signal, waited } => {
                    return Ok(self.not_run(&ledger, Outcome::Interrupted, interrupted(signal), None, waited));
                }
            };
            if let Some(queued) = self.queued {
                locks.waited = queued.waited();
            }
            let signals = Signals::take().map_err(|e| Error::io("take the signals of", "this process", e))?;
            if let Some(signal) = arrived() {
                return Ok(self.not_run(&ledger, Outcome::Interrupted, interrupted(signal), None, locks.waited));
            }
            let recorded = self.record_start(&ledger, &mut locks, &place);
            if self.queued.is_some() && recorded.as_ref().is_err_and(is_timeout) {
                // Somebody is stopped amid an append. A queued run has time, and would lose its process.
                continue;
            }
            match recorded? {
                Start::Withheld(Standing::Gone) => return Ok(Done::of(Outcome::Cancelled, ExitCode::NotRun.code())),
                // It gives the locks back, and keeps its place.
                Start::Withheld(_) => {}
                start => break (locks, signals, start),
            }
        };
        if let Some(queued) = self.queued {
            queued.leave();
        }
        let mut locks = locks;
        locks.leave_lanes();
        let (run, fence, start) = match start {
            Start::Recorded(run, fence, late) => (run, fence, late),
            Start::NotDue(why) => {
                return Ok(Done { why: Some(why), ..Done::of(Outcome::NotDue, ExitCode::Success.code()) });
            }
            Start::Withheld(_) => unreachable!("the loop goes on"),
        };
        held.add(self.job.as_str(), fence);
        for guard in &locks.named {
            held.add(&format!("locks/{}", guard.name()), guard.fence());
        }
        let course = Course {
            job: self.job,
            command: self.command,
            command_line: self.command_line(),
            options: self.options,
            dir: &files.dir,
            ledger: &ledger,
            held: &held,
            signals: &signals,
            run,
            fence,
            queued: self.queued.is_some(),
        };
        let done = course.see_through(locks, start, unnamed);
        // A signal that comes now, or waits already, comes too late for the run: its result stands. Given back, it
        // would end us before we have told it.
        std::mem::forget(signals);
        Ok(done)
    }

    /// Records that the job was asked for and could not even be tried.
    pub(crate) fn refuse(state: &StateDir, job: &Name, why: &Error, command: &str) -> Result<()> {
        let files = JobFiles::new(JobFiles::make_directory(state)?, job.clone());
        let ledger = JobLedger::new(files, Arc::new(Identity::current()), Arc::new(SystemClock));
        let refused = |totals: &Totals| {
            vec![Event::NotRun(NotRun {
                run: totals.next_run(),
                outcome: Outcome::Refused,
                reason: why.to_string(),
                holder: None,
                wait: 0.0,
                command: command.to_owned(),
                queued: false,
            })]
        };
        ledger.append(refused)?.sync()
    }

    fn wait_a_random_time(&self) -> Result<Option<i32>> {
        if self.options.jitter.is_zero() {
            return Ok(None);
        }
        let failed = |e| Error::io("take the signals of", "this process", e);
        let signals = Signals::take().map_err(failed)?;
        pause(&signals, self.options.jitter.mul_f64(fastrand::f64())).map_err(failed)
    }

    fn busy(&self, files: &JobFiles, ledger: &JobLedger, lock: &str, by: By, waited: Duration) -> Done {
        let named = lock.strip_prefix("locks/");
        let what = named.map_or_else(|| "it is running already".to_owned(), |name| format!("lock {name} is held"));
        let (why, holder) = match by {
            By::Unknown => (what, None),
            By::Waiters => {
                let is_paused = named.is_none() && files.is_paused().unwrap_or(false);
                let paused = if is_paused { " (its lane is paused: `triplock queue resume`)" } else { "" };
                (
                    format!("others wait for {}{paused}", named.map_or("it".to_owned(), |name| format!("lock {name}"))),
                    None,
                )
            }
            By::Leftover(holder) => {
                (format!("what run under pid {} started still runs, though that is gone", holder.pid), Some(holder))
            }
            By::Run(holder) => (format!("{what} (last taken by {holder})"), Some(holder)),
            By::Stranger { pid, command } => {
                let lock = named.map_or_else(|| "its lock".to_owned(), |name| format!("lock {name}"));
                (format!("{lock} is held by a process that is no run: pid {pid}: {command}"), None)
            }
        };
        self.not_run(ledger, Outcome::Skipped, (why, self.options.conflict_exit_code), holder, waited)
    }

    /// Records that there was no run.
    fn not_run(
        &self,
        ledger: &JobLedger,
        outcome: Outcome,
        (reason, code): (String, u8),
        holder: Option<Holder>,
        waited: Duration,
    ) -> Done {
        let done = Done { outcome, code, why: Some(reason.clone()), holder: holder.clone(), warnings: Vec::new() };
        let mut outcome = outcome;
        if let (Some(queued), Outcome::Interrupted) = (self.queued, outcome) {
            if !queued.is_stopped().unwrap_or(false) {
                // Its place is kept: a machine that shuts down sends TERM to everybody.
                return done;
            }
            outcome = Outcome::Cancelled;
        }
        let mut is_wanted = Ok(true);
        let recorded = ledger
            .append(|totals| {
                is_wanted = self.standing().map(|standing| standing != Standing::Gone);
                let not_run = || Event::NotRun(self.non_run(totals, outcome, reason, holder, waited));
                if matches!(is_wanted, Ok(true)) { vec![not_run()] } else { Vec::new() }
            })
            .and_then(|appended| appended.sync())
            .and(is_wanted.map(drop));
        if let (Ok(()), Some(queued)) = (&recorded, self.queued) {
            queued.leave();
        }
        let warnings = recorded.err().map(|e| format!("not recorded: {e}")).into_iter().collect();
        Done { warnings, ..done }
    }

    fn non_run(
        &self,
        totals: &Totals,
        outcome: Outcome,
        reason: String,
        holder: Option<Holder>,
        waited: Duration,
    ) -> NotRun {
        NotRun {
            run: self.number(totals),
            outcome,
            reason,
            holder,
            wait: seconds(waited),
            command: self.command_line(),
            queued: self.queued.is_some(),
        }
    }

    /// The number of this run: a queued one has it already.
    fn number(&self, totals: &Totals) -> RunId {
        self.queued.map_or_else(|| totals.next_run(), Admission::run)
    }

    fn standing(&self) -> Result<Standing> {
        self.queued.map_or(Ok(Standing::Wanted), Admission::standing)
    }

    /// Who takes its locks. The processes of queued runs have various command lines; the one that was given is told.
    fn identity(&self) -> Identity {
        let identity = Identity::current();
        if self.queued.is_none() {
            return identity;
        }
        let words = ["triplock", "queue", "add", self.job.as_str(), "--"].map(OsString::from);
        identity.with_command(words.iter().chain(self.command))
    }

    /// The command line, shortened.
    fn command_line(&self) -> String {
        crate::lock::shortened(self.command.iter())
    }

    /// The start of the first attempt, whose fence will never be given again; or why there is none, which is recorded
    /// then.
    fn record_start(&self, ledger: &JobLedger, locks: &mut Locks, place: &Place) -> Result<Start> {
        let Place { boot, pid_namespace } = place;
        let now = ledger.now();
        let own = locks.job.fence();
        let mut started = Err(Ok(Start::Withheld(Standing::Gone)));
        let appended = ledger.append_start(boot, |totals, fences| {
            let mut events: Vec<_> = remains(totals, locks.slot, boot).map(Event::Ended).into_iter().collect();
            match self.standing() {
                Ok(Standing::Wanted) => {}
                withheld => {
                    started = Err(withheld.map(Start::Withheld));
                    return events;
                }
            }
            if let Some(reason) = not_due(self.options, totals, now) {
                events.push(Event::NotRun(self.non_run(totals, Outcome::NotDue, reason.clone(), None, locks.waited)));
                started = Err(Ok(Start::NotDue(reason)));
                return events;
            }
            let (run, next) = (self.number(totals), fences.next(totals, own));
            events.push(Event::Started(Started {
                run,
                attempt: 1,
                fence: next.fence,
                slot: locks.slot,
                wait: seconds(locks.waited),
                command: self.command_line(),
                boot: boot.clone(),
                pid_namespace: *pid_namespace,
                file: None,
                reserved: next.reserve,
                lease: None,
                tick: None,
                queued: self.queued.is_some(),
            }));
            started = Ok((run, next));
            events
        })?;
        let (run, next) = match started {
            Ok(started) => started,
            Err(not) => return appended.sync().and(not),
        };
        let fence = next.fence;
        let noted = locks.job.raise_fence(Fence(fence.0 - 1));
        // One that was queued must not be started twice: of one whose start a power cut takes, `resume` would think that it
        // waits still.
        let sync_first = next.sync_first || self.queued.is_some();
        let safe = noted.and_then(|()| if sync_first { appended.sync() } else { Ok(()) });
        if let Err(e) = safe {
            ledger.distrust();
            // It is the first error that matters.
            let _ = ledger.append(|totals| {
                remains(totals, locks.slot, boot).map(|left| not_started(&left, e.to_string())).into_iter().collect()
            });
            if let Some(queued) = self.queued {
                queued.leave();
            }
            return Err(e);
        }
        if next.sync_first {
            ledger.reserved(&next);
        }
        let late = if sync_first { LateSync::default() } else { LateSync::of(appended) };
        Ok(Start::Recorded(run, fence, late))
    }
}

/// Whether `NAME.commit` was not to be had.
fn is_timeout(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut)
}

/// Why a run is not due now, if it is not.
pub(super) fn not_due(options: &Options, totals: &Totals, now: chrono::DateTime<chrono::Utc>) -> Option<String> {
    let (once_per, last) = (options.once_per?, totals.last_success()?);
    // A success in the future means that the clock was set back: better once too often than never again.
    let since = (now - last).to_std().ok()?;
    // A daily timer fires a little early or late each day; an early one must not cost a day.
    (since < once_per.mul_f64(0.99)).then(|| format!("its last success started {} s ago", since.as_secs()))
}

/// The end of a run whose start is in the ledger, but for all we know not on disk.
fn not_started(left: &Ended, why: String) -> Event {
    Event::Ended(Ended { outcome: Outcome::NotStarted, reason: Some(why), ..left.clone() })
}

/// Ended by a signal before it began: what for people, and the exit code.
pub(super) fn interrupted(signal: i32) -> (String, u8) {
    (format!("{} ended the wait", super::signal::name(signal)), 128 + u8::try_from(signal).unwrap_or_default())
}
