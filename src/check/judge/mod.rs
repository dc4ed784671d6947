//! The judgement of one job: no I/O, and the time is given.

use chrono::{DateTime, Utc};

use super::{Figures, Finding, Judgement, Subject};
use crate::job::{Last, Outcome, Presence, Request, Running};

/// Clocks are corrected by less than this all the time; seconds.
const AHEAD: i64 = 5;

/// Judges a job.
pub(crate) fn judge(subject: &Subject, now: DateTime<Utc>) -> Judgement {
    let Subject { limits, totals, .. } = subject;
    let failures = totals.failures_in_a_row + lost(subject);
    let mut findings = Vec::new();
    findings.extend(late(subject, now));
    if failures > 0 {
        let is_critical = failures >= limits.alert_after;
        findings.push(Finding::Failing { failures, is_critical, last: last_failure(subject) });
    }
    findings.extend(subject.slots.iter().filter_map(|presence| running(subject, presence, now)));
    findings.extend(subject.slots.iter().filter_map(orphaned));
    if limits.alert_skips.is_some_and(|skips| totals.skips_in_a_row >= skips) {
        findings.push(Finding::Skipping { skips: totals.skips_in_a_row });
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

/// Runs whose end was never recorded: the next start will call them lost.
fn lost(subject: &Subject) -> u64 {
    let outcome = |run: &Running| run.ending.map_or(Outcome::Lost, Request::outcome);
    let lost = |presence: &&Presence| matches!(presence, Presence::Lost(run) if outcome(run).is_failure());
    subject.slots.iter().filter(lost).count() as u64
}

fn last_failure(subject: &Subject) -> Option<Last> {
    let both = [&subject.totals.last, &subject.totals.last_not_run];
    let failures = both.into_iter().flatten().filter(|last| last.outcome.is_failure());
    // What was lost came later, and has no line yet.
    failures.max_by_key(|last| last.run).filter(|_| lost(subject) == 0).cloned()
}

/// The run in a slot, if it goes on as far as can be told.
fn goes_on(presence: &Presence) -> Option<&Running> {
    match presence {
        Presence::Running(run) | Presence::Orphaned(run, _) => Some(run),
        Presence::Free | Presence::Kept(_) | Presence::Lost(_) | Presence::Unknown(_) => None,
    }
}

fn running(subject: &Subject, presence: &Presence, now: DateTime<Utc>) -> Option<Finding> {
    let limit = subject.limits.alert_running?;
    let (Presence::Running(run) | Presence::Orphaned(run, _) | Presence::Unknown(run)) = presence else {
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
