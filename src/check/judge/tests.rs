//! Each rule, on totals that the model makes of entries, and at the edges of its limits.

use std::time::Duration;

use chrono::TimeDelta;

use super::*;
use crate::{
    check::{Limits, State},
    job::{Ended, Entry, Event, NotRun, RunId, Started, Totals},
    lock::Fence,
};

const LIMITS: Limits = Limits { expect_every: None, alert_after: 1, alert_running: None, alert_skips: None };

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

/// What is known after those entries, each at its second.
fn subject(limits: Limits, entries: &[(i64, Event)]) -> Subject {
    let totals = entries.iter().fold(Totals::default(), |totals, (second, event)| {
        totals.after(&Entry {
            time: at(*second),
            host: "a".to_owned(),
            pid: 1,
            invocation_id: None,
            event: event.clone(),
        })
    });
    Subject {
        job: "nightly".parse().unwrap(),
        limits,
        totals,
        slots: Vec::new(),
        defined: None,
        tick: None,
        stranded: 0,
    }
}

fn started(run: u64) -> Event {
    Event::Started(Started {
        run: RunId(run),
        attempt: 1,
        fence: Fence(run),
        slot: 1,
        wait: 0.0,
        command: "true".to_owned(),
        boot: "b".to_owned(),
        pid_namespace: 1,
        file: None,
        reserved: 0,
        lease: None,
        tick: None,
        queued: false,
    })
}

/// The end of a run that took 10 s.
fn ended(run: u64, end: i64, outcome: Outcome) -> (i64, Event) {
    let event = Event::Ended(Ended {
        run: RunId(run),
        attempt: 1,
        outcome,
        again: false,
        exit: None,
        signal: None,
        code: None,
        start: at(end - 10),
        duration: 10.0,
        user: 0.0,
        system: 0.0,
        peak_memory: 0,
        fence: Fence(run),
        wait: 0.0,
        reason: None,
    });
    (end, event)
}

fn not_run(run: u64, second: i64, outcome: Outcome) -> (i64, Event) {
    let (reason, command) = (String::new(), String::new());
    (
        second,
        Event::NotRun(NotRun { run: RunId(run), outcome, reason, holder: None, wait: 0.0, command, queued: false }),
    )
}

/// The run that the ledger shows.
fn run_of(subject: &Subject) -> Running {
    subject.totals.running[0].clone()
}

fn words(subject: &Subject, now: i64) -> Vec<&'static str> {
    judge(subject, at(now)).findings.iter().map(Finding::word).collect()
}

fn state(subject: &Subject, now: i64) -> State {
    judge(subject, at(now)).state()
}

fn every(seconds: u64) -> Limits {
    Limits { expect_every: Some(Duration::from_secs(seconds)), ..LIMITS }
}

#[test]
fn late_counts_from_the_end_of_the_last_success() {
    let job = subject(every(60), &[(0, started(1)), ended(1, 10, Outcome::Succeeded)]);
    assert_eq!((words(&job, 70), state(&job, 70)), (vec![], State::Ok));
    assert_eq!((words(&job, 71), state(&job, 71)), (vec!["late"], State::Critical));
    // A failure is no success, nor is a start that was skipped or not due.
    let entries = [
        ended(1, 10, Outcome::Succeeded),
        not_run(2, 60, Outcome::NotDue),
        not_run(3, 65, Outcome::Skipped),
        ended(4, 69, Outcome::Stopped),
    ];
    let job = subject(every(60), &entries);
    assert_eq!((words(&job, 70), words(&job, 71)), (vec![], vec!["late"]));
    // Without the limit nothing is late.
    assert_eq!(state(&Subject { limits: LIMITS, ..job }, 1_000_000), State::Ok);
}

#[test]
fn a_job_that_never_succeeded_is_late_from_when_it_is_known() {
    let never = subject(every(60), &[]);
    assert_eq!(state(&never, 1_000_000), State::Ok, "known since never");
    let by_file = Subject { defined: Some(at(0)), ..never };
    assert_eq!((words(&by_file, 60), words(&by_file, 61)), (vec![], vec!["never_succeeded"]));
    assert_eq!(state(&by_file, 61), State::Critical);
    let by_ledger = subject(every(60), &[not_run(1, 0, Outcome::Skipped), not_run(2, 50, Outcome::Skipped)]);
    assert_eq!((words(&by_ledger, 60), words(&by_ledger, 61)), (vec![], vec!["never_succeeded"]));
    // The earlier counts: an edit makes nothing fresh, nor does a first line that comes late.
    let edited = Subject { defined: Some(at(50)), ..by_ledger };
    assert_eq!(words(&edited, 61), ["never_succeeded"]);
    let started_late = Subject { defined: Some(at(0)), ..subject(every(60), &[(50, started(1))]) };
    assert_eq!(words(&started_late, 61), ["never_succeeded"]);
}

#[test]
fn failures_in_a_row_are_a_warning_and_then_critical() {
    let limits = Limits { alert_after: 3, ..LIMITS };
    let mut entries = vec![ended(1, 0, Outcome::Succeeded)];
    assert_eq!(state(&subject(limits, &entries), 100), State::Ok);
    for (run, (outcome, expected)) in (2..).zip([
        (Outcome::Failed, State::Warning),
        (Outcome::TimedOut, State::Warning),
        (Outcome::Lost, State::Critical),
        (Outcome::Stopped, State::Critical),
        (Outcome::Succeeded, State::Ok),
        (Outcome::Stopped, State::Ok),
        (Outcome::Replaced, State::Ok),
    ]) {
        entries.push(ended(run, 0, outcome));
        assert_eq!(state(&subject(limits, &entries), 100), expected, "{outcome:?}");
    }
    for (run, (outcome, expected)) in (9..).zip([
        (Outcome::Interrupted, State::Ok),
        (Outcome::NotStarted, State::Warning),
        (Outcome::Skipped, State::Warning),
        (Outcome::NotDue, State::Warning),
        (Outcome::Refused, State::Warning),
        (Outcome::Refused, State::Critical),
    ]) {
        entries.push(not_run(run, 0, outcome));
        assert_eq!(state(&subject(limits, &entries), 100), expected, "{outcome:?}");
    }
    let Finding::Failing { failures: 3, last: LastFailure::Known(last), .. } =
        &judge(&subject(limits, &entries), at(100)).findings[0]
    else {
        panic!("three failures")
    };
    assert_eq!((last.run, last.outcome), (RunId(14), Outcome::Refused));
}

#[test]
fn one_failure_is_critical_unless_somebody_said_more() {
    assert_eq!(state(&subject(LIMITS, &[ended(1, 0, Outcome::Failed)]), 1), State::Critical);
}

#[test]
fn a_run_whose_wrapper_is_gone_has_failed() {
    let mut job = subject(LIMITS, &[(0, started(1))]);
    job.slots = vec![Presence::Lost(run_of(&job))];
    assert_eq!((words(&job, 1), state(&job, 1)), (vec!["failing"], State::Critical));
    let failed_before = [ended(1, 0, Outcome::Failed), (5, started(2))];
    let both = subject(LIMITS, &failed_before);
    let both = Subject { slots: vec![Presence::Lost(run_of(&both))], ..both };
    let found = judge(&both, at(6)).findings;
    assert!(matches!(found[..], [Finding::Failing { failures: 2, last: LastFailure::Lost, .. }]), "{found:?}");
    // Somebody wished it.
    let stopped = Running { ending: Some(Request::Stop), ..run_of(&job) };
    job.slots = vec![Presence::Lost(stopped)];
    assert_eq!(state(&job, 1), State::Ok);
    job.slots = vec![Presence::Orphaned(run_of(&job), Vec::new())];
    assert_eq!((words(&job, 1), state(&job, 1)), (vec!["orphaned"], State::Warning));
}

#[test]
fn an_attempt_that_lasts_too_long_is_critical() {
    let mut job = subject(LIMITS, &[(0, started(1))]);
    job.slots = vec![Presence::Running(run_of(&job))];
    assert_eq!(state(&job, 1_000_000), State::Ok, "no limit");
    job.limits.alert_running = Some(Duration::from_secs(30));
    assert_eq!((words(&job, 30), words(&job, 31)), (vec![], vec!["running_long"]));
    assert_eq!(state(&job, 31), State::Critical);
    job.slots = vec![Presence::Orphaned(run_of(&job), Vec::new())];
    assert_eq!(words(&job, 31), ["running_long", "orphaned"], "the worst first");
    // Whether it still runs is not to be seen from here.
    job.slots = vec![Presence::Unknown(run_of(&job))];
    assert_eq!((words(&job, 30), words(&job, 31), state(&job, 31)), (vec![], vec!["unseen"], State::Unknown));
    job.slots = vec![Presence::Free, Presence::Kept(Vec::new())];
    assert_eq!(state(&job, 31), State::Ok, "what keeps the lock is no run");
}

#[test]
fn skips_in_a_row_are_a_warning_where_somebody_said_how_many() {
    let limits = Limits { alert_skips: Some(2), ..LIMITS };
    let mut entries = vec![(0, started(1)), not_run(2, 1, Outcome::Skipped)];
    assert_eq!(state(&subject(limits, &entries), 2), State::Ok);
    entries.push(not_run(3, 2, Outcome::Interrupted));
    entries.push(not_run(4, 3, Outcome::Skipped));
    let job = subject(limits, &entries);
    assert_eq!((words(&job, 4), state(&job, 4)), (vec!["skipping"], State::Warning));
    assert_eq!(state(&Subject { limits: LIMITS, ..job }, 4), State::Ok);
    // A start that has the lock ends the row, whether it wants it or not.
    let not_due = [&entries[..], &[not_run(5, 4, Outcome::NotDue)]].concat();
    assert_eq!(state(&subject(limits, &not_due), 5), State::Ok);
    entries.push((4, started(5)));
    assert_eq!(state(&subject(limits, &entries), 5), State::Ok);
}

#[test]
fn what_is_yet_to_come_makes_nothing_fresh() {
    let job = subject(every(60), &[ended(1, 1000, Outcome::Succeeded)]);
    assert_eq!((words(&job, 0), state(&job, 0)), (vec!["clock"], State::Unknown));
    assert_eq!(judge(&job, at(0)).figures.unwrap().age, None);
    // Clocks differ by less all the time.
    assert_eq!(state(&job, 998), State::Ok);
    // Where nothing is expected, nothing hangs on it.
    assert_eq!(state(&Subject { limits: LIMITS, ..job }, 0), State::Ok);
    let file = Subject { defined: Some(at(1000)), ..subject(every(60), &[]) };
    assert_eq!(words(&file, 0), ["clock"]);
    let mut running = subject(Limits { alert_running: Some(Duration::from_secs(30)), ..LIMITS }, &[(1000, started(1))]);
    running.slots = vec![Presence::Running(run_of(&running))];
    assert_eq!((words(&running, 0), state(&running, 0)), (vec!["clock"], State::Unknown));
    // A success by the right clock counts again, though its time is before the other.
    let later = subject(every(60), &[ended(1, 1000, Outcome::Succeeded), ended(2, 10, Outcome::Succeeded)]);
    assert_eq!((state(&later, 20), words(&later, 71)), (State::Ok, vec!["late"]));
}

#[test]
fn the_worst_goes_first_and_what_is_not_known_before_what_is_well() {
    let worst = |states: &[State]| State::worst(states.iter().copied());
    assert_eq!(worst(&[State::Ok, State::Unknown]), State::Unknown);
    assert_eq!(worst(&[State::Unknown, State::Warning, State::Ok]), State::Warning);
    assert_eq!(worst(&[State::Critical, State::Unknown, State::Warning]), State::Critical);
    assert_eq!(worst(&[]), State::Ok);
}

#[test]
fn figures() {
    let mut job =
        subject(LIMITS, &[ended(1, 0, Outcome::Succeeded), (50, started(2)), not_run(3, 55, Outcome::Skipped)]);
    job.slots = vec![Presence::Running(run_of(&job))];
    let figures = judge(&job, at(60) + TimeDelta::milliseconds(500)).figures.unwrap();
    assert_eq!((figures.age, figures.running, figures.failures, figures.skips), (Some(60.5), Some(10.5), 0, 1));
}

#[test]
fn what_came_after_a_failure_is_not_called_its_cause() {
    let last = |entries: &[(i64, Event)]| {
        let Finding::Failing { last, .. } = judge(&subject(LIMITS, entries), at(100)).findings.remove(0) else {
            panic!("a failure")
        };
        match last {
            LastFailure::Known(last) => Some(last.run.0),
            LastFailure::Earlier => None,
            LastFailure::Lost => panic!("none is lost"),
        }
    };
    let refused = not_run(1, 0, Outcome::Refused);
    let (succeeded, failed, stopped) =
        (ended(2, 10, Outcome::Succeeded), ended(3, 20, Outcome::Failed), ended(4, 30, Outcome::Stopped));
    let skipped = not_run(5, 40, Outcome::Skipped);
    assert_eq!(last(&[failed.clone(), skipped]), Some(3));
    assert_eq!(last(&[failed.clone(), stopped.clone()]), None);
    assert_eq!(last(&[refused.clone(), succeeded.clone(), failed.clone(), stopped]), None);
    assert_eq!(last(&[refused, succeeded.clone(), failed]), Some(3));
    assert_eq!(last(&[succeeded, not_run(5, 40, Outcome::NotStarted)]), Some(5));
}

#[test]
fn a_later_success_ends_the_row_of_a_slot_that_nobody_uses_any_more() {
    let mut job = subject(LIMITS, &[(20, started(2)), ended(1, 25, Outcome::Succeeded)]);
    job.slots = vec![Presence::Free, Presence::Lost(run_of(&job))];
    // That success started at 15, when the other had not.
    assert_eq!(words(&job, 100), ["failing"]);
    let later = subject(LIMITS, &[(20, started(2)), ended(3, 31, Outcome::Succeeded)]);
    let later = Subject { slots: job.slots, ..later };
    assert_eq!(words(&later, 100), [""; 0]);
    // One that is yet to come proves nothing.
    assert_eq!(words(&later, 10), ["failing"]);
}

#[test]
fn runs_without_a_process_are_a_warning() {
    let job = subject(LIMITS, &[(1, started(1)), ended(1, 2, Outcome::Succeeded)]);
    assert_eq!(state(&job, 3), State::Ok);
    assert_eq!(state(&Subject { stranded: 2, ..job }, 3), State::Warning);
}
