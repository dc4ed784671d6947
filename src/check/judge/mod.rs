//! The judgement of one job: no I/O, and the time is given.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Figures, Finding, Judgement, LastFailure, Subject};
use crate::{
    crontab::Tick,
    job::{Last, Outcome, Presence, Request, Running, Totals},
};

/// Clocks are corrected by less than this all the time; seconds.
const AHEAD: i64 = 5;

/// How long after a time of `--tick` somebody may still run it before nobody has.
const LATE: TimeDelta = TimeDelta::seconds(90);

/// More missed ticks than these are not counted.
const MOST_MISSED: usize = 1000;

/// Judges a job.
pub(crate) fn judge(subject: &Subject, now: DateTime<Utc>) -> Judgement {
    let Subject { limits, totals, .. } = subject;
    let lost = lost(subject, now);
    let failures = totals.failures_in_a_row + lost;
    let mut findings = Vec::new();
    findings.extend(late(subject, now));
    if failures > 0 {
        let is_critical = failures >= limits.alert_after;
        // What was lost came later, and has no line yet.
        let newest = if lost > 0 { LastFailure::Lost } else { last_failure(subject) };
        findings.push(Finding::Failing { failures, is_critical, last: newest });
    }
    findings.extend(subject.slots.iter().filter_map(|presence| running(subject, presence, now)));
    findings.extend(subject.slots.iter().filter_map(orphaned));
    findings.extend(missed(subject, now));
    if limits.alert_skips.is_some_and(|skips| totals.skips_in_a_row >= skips) {
        findings.push(Finding::Skipping { skips: totals.skips_in_a_row });
    }
    if subject.stranded > 0 {
        findings.push(Finding::Stranded { runs: subject.stranded });
    }
    // (Stable: of equals, the first said is the first.)
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.state().severity()));
    let age = totals.last_success_ended().filter(|end| !is_ahead(*end, now)).map(|end| seconds(now, end));
    let lasting = subject.slots.iter().filter_map(goes_on).map(|run| seconds(now, run.start));
    let figures = Figures {
        limits: *limits,
        age,
        failures,
        skips: totals.skips_in_a_row,
        running: lasting.max_by(f64::total_cmp),
    };
    Judgement { subject: subject.job.to_string(), findings, figures: Some(figures) }
}

/// No success ended within the time in which one is expected. Of a job without any success, the time counts from when
/// it is known: from its first line or the last change of its file, whichever is earlier. The file alone would be new
/// again after each edit; the first line alone would never come for a job that nothing starts, which is the one that
/// most needs to be told of.
fn late(subject: &Subject, now: DateTime<Utc>) -> Option<Finding> {
    let every = subject.limits.expect_every?;
    let success = subject.totals.last_success_ended();
    let since = success.or_else(|| [subject.totals.first(), subject.defined].into_iter().flatten().min())?;
    if is_ahead(since, now) {
        let what = if success.is_some() { "its last success ended" } else { "it was first heard of" };
        return Some(Finding::Ahead { what, time: since });
    }
    let is_late = (now - since).to_std().is_ok_and(|age| age > every);
    is_late.then_some(match success {
        Some(_) => Finding::Late { every, since },
        None => Finding::NeverSucceeded { every, since },
    })
}

/// Runs whose end was never recorded: the next start in their slot will call them lost. When that one never comes, since
/// others of the job's slots are free, a success that started later ends the row.
fn lost(subject: &Subject, now: DateTime<Utc>) -> u64 {
    let success = subject.totals.last_success().filter(|success| !is_ahead(*success, now));
    let counts = |run: &Running| {
        let outcome = run.ending.map_or(Outcome::Lost, Request::outcome);
        outcome.is_failure() && success.is_none_or(|success| success <= run.start)
    };
    subject.slots.iter().filter(|presence| matches!(presence, Presence::Lost(run) if counts(run))).count() as u64
}

/// The sums know the last run and the last non-run only. One that did not run before the last run did may lie before a
/// success as well.
fn last_failure(subject: &Subject) -> LastFailure {
    let Totals { last, last_not_run, .. } = &subject.totals;
    let failed = |last: &&Last| last.outcome.is_failure();
    let run = last.as_ref().filter(failed);
    let is_newer = |not_run: &&Last| last.as_ref().is_none_or(|last| last.run < not_run.run);
    let not_run = last_not_run.as_ref().filter(failed).filter(is_newer);
    not_run.or(run).cloned().map_or(LastFailure::Earlier, LastFailure::Known)
}

/// The run in a slot, if it goes on as far as can be told.
fn goes_on(presence: &Presence) -> Option<&Running> {
    match presence {
        Presence::Running(run) | Presence::Orphaned(run, _) | Presence::Leased(Some(run), _) => Some(run),
        Presence::Leased(None, _) | Presence::Free | Presence::Kept(_) | Presence::Lost(_) | Presence::Unknown(_) => {
            None
        }
    }
}

fn running(subject: &Subject, presence: &Presence, now: DateTime<Utc>) -> Option<Finding> {
    let limit = subject.limits.alert_running?;
    let (Presence::Running(run) | Presence::Orphaned(run, _) | Presence::Leased(Some(run), _) | Presence::Unknown(run)) =
        presence
    else {
        return None;
    };
    if is_ahead(run.start, now) {
        return Some(Finding::Ahead { what: "its run started", time: run.start });
    }
    let is_long = (now - run.start).to_std().is_ok_and(|lasting| lasting > limit);
    is_long.then_some(match presence {
        Presence::Unknown(_) => Finding::Unseen { run: run.run, since: run.start },
        _ => Finding::RunningLong { run: run.run, since: run.start, limit },
    })
}

/// Times of `--tick` that nobody ran: those since the last that somebody ran, if there are any, else those before it.
fn missed(subject: &Subject, now: DateTime<Utc>) -> Option<Finding> {
    let Some(last) = subject.totals.tick.as_ref() else {
        // The file says that there are times, and nobody has run one yet.
        let since = subject.tick.as_ref()?.between(subject.defined?, now - LATE, MOST_MISSED);
        let first = *since.first()?;
        return Some(Finding::Missed { ticks: since.len() as u64, first, is_critical: true });
    };
    let tick: Tick = last.expression.parse().ok()?;
    // A host that is slow, or waits for a lease, is not none.
    let since = tick.between(last.time, now - LATE, MOST_MISSED);
    if let Some(first) = since.first() {
        return Some(Finding::Missed { ticks: since.len() as u64, first: *first, is_critical: true });
    }
    (last.missed > 0).then_some(Finding::Missed { ticks: last.missed, first: last.time, is_critical: false })
}

fn orphaned(presence: &Presence) -> Option<Finding> {
    match presence {
        Presence::Orphaned(run, keepers) => {
            Some(Finding::Orphaned { run: run.run, pid: keepers.first().map(|keeper| keeper.pid) })
        }
        _ => None,
    }
}

fn is_ahead(time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    (time - now).num_seconds() > AHEAD
}

/// How long ago that was.
fn seconds(now: DateTime<Utc>, time: DateTime<Utc>) -> f64 {
    (now - time).to_std().unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests;
