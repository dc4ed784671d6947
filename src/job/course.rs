//! The course of a run that has started: its attempts, and its end.
//!
//! Nothing here fails any more: whatever goes wrong after the start is an outcome, and is recorded as one. A run whose
//! end cannot be recorded (a full disk) still gives the command's own exit code; the next run finds the start without
//! an end, and records it as lost.

use std::{
    ffi::OsString,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use super::{
    keeping::{Broken, Carried, Holding, Lines},
    late_sync::LateSync,
    lifeline::Lifeline,
    log::{Log, UnnamedLog},
    model::{Ended, Event, Outcome, RunId, Started, seconds},
    options::{Options, OutputMode},
    place::Place,
    run::Done,
    signal,
    supervise::{Attempt, Cause, Supervisor},
};
use crate::{
    dir::Dir,
    error::Error,
    exit::ExitCode,
    held::Held,
    lock::Fence,
    name::Name,
    process::{self, Cgroup, Program, Signals, Spawn, Status, Tree, Usage},
};

/// A run that has started.
pub(super) struct Course<'a, L> {
    pub(super) job: &'a Name,
    pub(super) command: &'a [OsString],
    pub(super) command_line: String,
    pub(super) options: &'a Options,
    /// Where its log goes.
    pub(super) dir: &'a Dir,
    pub(super) ledger: &'a L,
    /// The locks that it has and those of the runs it belongs to.
    pub(super) held: &'a Held,
    pub(super) signals: &'a Signals,
    pub(super) run: RunId,
    pub(super) fence: Fence,
    /// Whether it was queued.
    pub(super) queued: bool,
}

/// How one attempt ended.
struct Verdict {
    outcome: Outcome,
    code: u8,
    exit: Option<u8>,
    signal: Option<i32>,
    usage: Usage,
    start: DateTime<Utc>,
    duration: Duration,
    why: Option<String>,
}

impl<L: Lines> Course<'_, L> {
    /// Runs the attempts, records the end and lets the locks go. `recorded`: the start, on its way to the disk; `unnamed`: what
    /// there is of the log.
    pub(super) fn see_through(&self, locks: impl Holding, mut recorded: LateSync, unnamed: Option<UnnamedLog>) -> Done {
        let mut warnings = Vec::new();
        let mut log = None;
        let start = self.ledger.now();
        let created = match self.options.output {
            OutputMode::Inherit => Ok(None),
            OutputMode::Capture | OutputMode::OnFailure => {
                let limit = self.options.log_limit;
                Log::create(self.dir, self.job, self.run, limit, unnamed).map(Some)
            }
        };
        let (attempt, mut verdict) = match created {
            Ok(created) => {
                log = created;
                self.attempts(&locks, log.as_mut(), &mut recorded, &mut warnings)
            }
            Err(e) => (1, Verdict::not_started(ExitCode::NotRun, e.to_string(), start)),
        };
        let (slot, waited) = (locks.slot(), locks.waited());
        let mut outcome = verdict.outcome;
        let mut is_over_already = false;
        let ended = self.ledger.append(&mut |totals| {
            // Whoever ended us may have recorded that already.
            let Some(running) = totals.in_slot(slot).filter(|running| running.run == self.run) else {
                is_over_already = true;
                return Vec::new();
            };
            if let (Some(request), true) = (running.ending, verdict.may_be_requested()) {
                outcome = request.outcome();
            }
            vec![Event::Ended(self.ended(&verdict, outcome, attempt, false, waited))]
        });
        let ended = match ended {
            Err(Error::LockLost(_)) => {
                verdict.lose_the_lease();
                outcome = verdict.outcome;
                self.observe_the_loss(&verdict, slot, attempt, waited);
                Ok(None)
            }
            // Or it was us, unheard; or whoever has the lease now.
            Ok(_) if is_over_already && self.ledger.was_lost(self.run) => {
                verdict.lose_the_lease();
                outcome = verdict.outcome;
                Ok(None)
            }
            ended => ended,
        };
        locks.release(self.options.hold);
        let (start, end) = recorded.conclude(ended);
        if start.is_err() || end.is_err() {
            self.ledger.distrust();
        }
        warnings.extend(start.err().map(|e| format!("the start of run {} may not be recorded: {e}", self.run)));
        warnings.extend(end.err().map(|e| format!("the end of run {} is not recorded: {e}", self.run)));
        if let Some(log) = log {
            let show = self.options.output == OutputMode::OnFailure && outcome != Outcome::Succeeded;
            let keep = self.options.keep_runs;
            if self.queued {
                warnings.extend(log.finish_queued(keep).err().map(|e| e.to_string()));
            } else {
                warnings.extend(finish(log, show, outcome, keep));
            }
        }
        let why = verdict.why.clone().or_else(|| self.failure(&verdict, outcome, attempt));
        Done { why, warnings, ..Done::of(outcome, verdict.code) }
    }

    /// What is said of a failure whose output went to a log: without it a command that fails without a word would
    /// leave cron nothing to mail.
    fn failure(&self, verdict: &Verdict, outcome: Outcome, attempts: u32) -> Option<String> {
        if outcome != Outcome::Failed || self.options.output == OutputMode::Inherit {
            return None;
        }
        let how = match (verdict.exit, verdict.signal) {
            (_, Some(signal)) => format!("signal {}", signal::name(signal)),
            (exit, None) => format!("exit code {}", exit.unwrap_or_default()),
        };
        let attempts = if attempts > 1 { format!(", {attempts} attempts") } else { String::new() };
        Some(format!("run {} failed: {how}{attempts}", self.run))
    }

    /// Records that this run lost its lease, unless whoever has it now has done so: that is no commit, and anybody may.
    fn observe_the_loss(&self, verdict: &Verdict, slot: u32, attempt: u32, waited: Duration) {
        // Whoever comes next finds the start without an end, and records it as lost.
        let _ = self.ledger.observe(&mut |totals| {
            let is_ours = totals.in_slot(slot).is_some_and(|running| running.run == self.run);
            let ended = || Event::Ended(self.ended(verdict, Outcome::LeaseLost, attempt, false, waited));
            is_ours.then(ended).into_iter().collect()
        });
    }

    /// Attempt after attempt. Gives the last one.
    fn attempts(
        &self,
        locks: &impl Holding,
        mut log: Option<&mut Log>,
        recorded: &mut LateSync,
        warnings: &mut Vec<String>,
    ) -> (u32, Verdict) {
        let program = match Program::find(self.command) {
            Ok(program) => program,
            Err(e) => return (1, self.broken(&e.into(), self.ledger.now())),
        };
        if let Err(e) = process::become_subreaper() {
            warnings.push(format!("a descendant that leaves the job's group may outlive it: {e}"));
        }
        let mut attempt = 1;
        loop {
            let verdict = self.attempt(attempt, &program, locks, log.as_deref_mut(), recorded, warnings);
            let again =
                matches!(verdict.outcome, Outcome::Failed | Outcome::TimedOut) && attempt <= self.options.retries.count;
            if !again || self.is_unwanted(locks.slot()) {
                return (attempt, verdict);
            }
            // Not synced: the next start is appended behind it, and the last end is synced with all before it.
            let ended = self.ended(&verdict, verdict.outcome, attempt, true, locks.waited());
            match self.ledger.append(&mut |_| vec![Event::Ended(ended.clone())]) {
                Ok(_) => {}
                Err(Error::LockLost(_)) => return (attempt, verdict),
                Err(e) => warnings.push(e.to_string()),
            }
            recorded.begin();
            match locks.rest(self.signals, self.options.retries.pause_after(attempt)) {
                Ok(None) => {}
                Ok(Some(signal)) => {
                    let code = 128 + u8::try_from(signal).unwrap_or_default();
                    let why = Some(format!("{} ended the pause before attempt {}", signal::name(signal), attempt + 1));
                    return (attempt, Verdict { outcome: Outcome::Stopped, code, why, ..verdict });
                }
                Err(e) => warnings.push(format!("no pause before attempt {}: {e}", attempt + 1)),
            }
            attempt += 1;
            let started = self.started(attempt, locks);
            match self.ledger.append(&mut |_| vec![Event::Started(started.clone())]) {
                Ok(_) => {}
                Err(Error::LockLost(_)) => return (attempt - 1, verdict),
                Err(e) => warnings.push(e.to_string()),
            }
        }
    }

    /// Whether somebody has asked for the end of this run.
    fn is_unwanted(&self, slot: u32) -> bool {
        let totals = self.ledger.totals().unwrap_or_default();
        totals.in_slot(slot).is_some_and(|running| running.run == self.run && running.ending.is_some())
    }

    fn attempt(
        &self,
        attempt: u32,
        program: &Program,
        locks: &impl Holding,
        mut log: Option<&mut Log>,
        recorded: &mut LateSync,
        warnings: &mut Vec<String>,
    ) -> Verdict {
        let start = self.ledger.now();
        let environment = self.environment(attempt, locks);
        let foreground = process::in_foreground();
        let carried = locks.carry_out(&mut |lifeline| {
            let log = log.as_deref_mut();
            self.carry_out(program, &environment, foreground, locks, log, recorded, lifeline)
        });
        match carried {
            Ok(attempt) => {
                if !attempt.survivors.is_empty() {
                    warnings.push(format!("could not end {}", attempt.survivors.join(", ")));
                }
                self.judge(&attempt, start)
            }
            Err(broken) => self.broken(&broken, start),
        }
    }

    /// Starts the command and watches over it, in the wrapper or in its guardian.
    #[allow(clippy::too_many_arguments)] // What both need, and nothing else.
    fn carry_out(
        &self,
        program: &Program,
        environment: &[(OsString, Option<OsString>)],
        foreground: bool,
        locks: &impl Holding,
        log: Option<&mut Log>,
        recorded: &mut LateSync,
        lifeline: Option<&mut Lifeline>,
    ) -> Carried {
        if lifeline.as_ref().is_some_and(|lifeline| lifeline.job_must_end()) {
            // What is started now would be ended at once.
            return Err(Broken::LeaseLost(Vec::new()));
        }
        // Certain to end with its whole tree, where the system offers that.
        let cgroup = locks.wants_a_certain_end(self.options).then(|| format!("{}-{}", self.job, self.run));
        let cgroup = cgroup.and_then(|name| Cgroup::try_make(&name));
        let inherit = if self.options.close { Vec::new() } else { locks.descriptors() };
        let output = log.as_ref().map(|log| log.output());
        let spawn = Spawn {
            program,
            environment,
            stdin: None,
            stdout: output,
            stderr: output,
            inherit: &inherit,
            own_group: !foreground,
            // The guardian was killed too, at once with its wrapper: nobody would end it in time.
            dies_with_us: lifeline.is_some(),
            cgroup: cgroup.as_ref().map(Cgroup::as_fd),
            mask: Some(self.signals.before()),
        };
        let started = Instant::now();
        let child = spawn.start()?;
        let mut tree = Tree::new(child, !foreground, cgroup);
        let (options, signals) = (self.options, self.signals);
        let supervisor = Supervisor { options, signals, log, foreground, recorded, started, lifeline };
        supervisor.watch(&mut tree).map_err(|e| {
            // Nobody would watch over it.
            let survivors = match tree.kill_all() {
                Ok(survivors) => survivors.iter().map(ToString::to_string).collect(),
                Err(e) => vec![e.to_string()],
            };
            Broken::Unwatched(e.to_string(), survivors)
        })
    }

    fn environment(&self, attempt: u32, locks: &impl Holding) -> Vec<(OsString, Option<OsString>)> {
        let mut variables: Vec<(OsString, Option<OsString>)> = vec![
            ("TRIPLOCK_JOB".into(), Some(self.job.as_str().into())),
            ("TRIPLOCK_RUN_ID".into(), Some(self.run.to_string().into())),
            ("TRIPLOCK_ATTEMPT".into(), Some(attempt.to_string().into())),
            ("TRIPLOCK_FENCE".into(), Some(self.fence.to_string().into())),
        ];
        variables.extend(locks.environment());
        variables.extend(self.held.exported());
        variables
    }

    fn judge(&self, attempt: &Attempt, start: DateTime<Utc>) -> Verdict {
        let Attempt { ended, duration, cause, killed, .. } = attempt;
        let (exit, signal) = match ended.status {
            Status::Exited(code) => (Some(code), None),
            Status::Killed(signal) => (None, Some(signal)),
        };
        let own = exit.unwrap_or_else(|| 128 + u8::try_from(signal.unwrap_or_default()).unwrap_or_default());
        let well = exit.is_some_and(|code| self.options.ok_exit.contains(&code));
        let (outcome, code, why) = match cause {
            Some(Cause::TimeLimit) => {
                let limit = self.options.time_limit.unwrap_or_default();
                let by_kill = signal == Some(libc::SIGKILL);
                let how = match (*killed, by_kill) {
                    (true, true) => ", and took KILL",
                    (true, false) => "; what it left behind took KILL",
                    (false, _) => "",
                };
                let why = format!("it reached its time limit of {} s{how}", limit.as_secs_f64());
                (Outcome::TimedOut, if by_kill { own } else { ExitCode::TimeLimit.code() }, Some(why))
            }
            // A command that handles Ctrl-C in the foreground went on, and ended well.
            Some(Cause::Interrupt) | None if well => (Outcome::Succeeded, own, None),
            Some(Cause::LeaseLost) => (Outcome::LeaseLost, ExitCode::LockLost.code(), Some(LEASE_LOST.to_owned())),
            Some(Cause::Signal(_) | Cause::Interrupt) => (Outcome::Stopped, own, None),
            None => (Outcome::Failed, own, None),
        };
        Verdict { outcome, code, exit, signal, usage: ended.usage, start, duration: *duration, why }
    }

    fn broken(&self, broken: &Broken, start: DateTime<Utc>) -> Verdict {
        let command = self.command.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        let (code, why) = match broken {
            Broken::NotFound => (ExitCode::NoSuchCommand, format!("{command}: {}", process::why_missing(self.command))),
            Broken::NotExecutable(why) => (ExitCode::NotExecutable, format!("{command}: cannot be executed: {why}")),
            Broken::NotStarted(why) => (ExitCode::NotRun, format!("{command}: cannot be started: {why}")),
            Broken::LeaseLost(survivors) => {
                let left = left(survivors);
                return Verdict {
                    outcome: Outcome::LeaseLost,
                    ..Verdict::not_started(ExitCode::LockLost, format!("{LEASE_LOST}{left}"), start)
                };
            }
            Broken::Unwatched(why, survivors) => {
                let left = left(survivors);
                let why = format!("cannot watch over the command any more: {why}; the command was killed{left}");
                return Verdict { outcome: Outcome::Failed, ..Verdict::not_started(ExitCode::NotRun, why, start) };
            }
        };
        Verdict::not_started(code, why, start)
    }

    fn started(&self, attempt: u32, locks: &impl Holding) -> Started {
        let Place { boot, pid_namespace } = Place::current_or_unknown();
        Started {
            run: self.run,
            attempt,
            fence: self.fence,
            slot: locks.slot(),
            wait: seconds(locks.waited()),
            command: self.command_line.clone(),
            boot,
            pid_namespace,
            file: None,
            reserved: 0,
            lease: self.options.lease.map(seconds),
            tick: None,
            queued: false,
        }
    }

    fn ended(&self, verdict: &Verdict, outcome: Outcome, attempt: u32, again: bool, waited: Duration) -> Ended {
        Ended {
            run: self.run,
            attempt,
            outcome,
            again,
            exit: verdict.exit,
            signal: verdict.signal,
            code: verdict.own_code(),
            start: verdict.start,
            duration: seconds(verdict.duration),
            user: seconds(verdict.usage.user),
            system: seconds(verdict.usage.system),
            peak_memory: verdict.usage.peak_memory,
            fence: self.fence,
            wait: seconds(waited),
            reason: verdict.why.clone(),
        }
    }
}

/// Prints the log if it is to be seen, and tidies up the logs. Gives what went wrong.
fn finish(mut log: Log, show: bool, outcome: Outcome, keep: u32) -> impl Iterator<Item = String> {
    let shown = if show { log.print(&mut std::io::stdout().lock()) } else { Ok(Ok(())) };
    let shown = match shown {
        // A reader that went away wants no more of it.
        Ok(Err(e)) if e.kind() != std::io::ErrorKind::BrokenPipe => Some(format!("its output was not printed: {e}")),
        Ok(_) => None,
        Err(e) => Some(e.to_string()),
    };
    let tidied = log.finish(keep, outcome == Outcome::Succeeded);
    shown.into_iter().chain(tidied.err().map(|e| e.to_string()))
}

/// Who could not be killed, if there is anybody.
fn left(survivors: &[String]) -> String {
    if survivors.is_empty() { String::new() } else { format!(", but for {}", survivors.join(", ")) }
}

/// Why a run whose lease was lost is not recorded as what its command made of it.
const LEASE_LOST: &str =
    "its lease was lost before its end was known to be recorded, and somebody else may have run since";

impl Verdict {
    /// However the command ended: its run is not its job's any more.
    fn lose_the_lease(&mut self) {
        if self.outcome != Outcome::LeaseLost {
            (self.outcome, self.code) = (Outcome::LeaseLost, ExitCode::LockLost.code());
            self.why = Some(LEASE_LOST.to_owned());
        }
    }

    fn not_started(code: ExitCode, why: String, start: DateTime<Utc>) -> Self {
        let (code, usage) = (code.code(), Usage::default());
        let (outcome, duration) = (Outcome::NotStarted, Duration::ZERO);
        Self { outcome, code, exit: None, signal: None, usage, start, duration, why: Some(why) }
    }

    /// The exit code, where the command's end does not make it.
    fn own_code(&self) -> Option<u8> {
        let by_signal = self.signal.map(|signal| 128 + u8::try_from(signal).unwrap_or_default());
        (self.exit.or(by_signal) != Some(self.code)).then_some(self.code)
    }

    /// Whether somebody's request may have been what ended it: one that had ended by itself, or that reached its limit, was not
    /// ended by the request that came too late.
    fn may_be_requested(&self) -> bool {
        self.outcome == Outcome::Stopped || self.signal.is_some()
    }
}
