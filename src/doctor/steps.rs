//! Steps of the clock that a ledger shows: each line is written under a lock, so a line whose time is before that of the line
//! above was written after the clock had been set back.

use chrono::{DateTime, TimeDelta, Utc};

use super::findings::{Findings, Trouble};
use crate::{
    clock::{Clock as _, SystemClock},
    job::JobFiles,
};

/// So many of the newest lines are looked at: some days of a job that runs every minute.
const MOST_LINES: usize = 10_000;

/// A clock that is kept right is moved by less.
const TOLERANCE: TimeDelta = TimeDelta::seconds(1);

/// What the times of a ledger show.
#[derive(Debug, Default, PartialEq, Eq)]
struct Steps {
    /// How often the time goes backwards, and the largest such step with the time before it.
    backwards: usize,
    largest: Option<(TimeDelta, DateTime<Utc>)>,
    /// Lines that lie in the future, and the time of the latest.
    ahead: usize,
    latest: Option<DateTime<Utc>>,
}

impl Steps {
    /// `times`: the newest first.
    fn of(times: impl Iterator<Item = DateTime<Utc>>, now: impl FnOnce() -> DateTime<Utc>) -> Self {
        let mut steps = Self::default();
        let times: Vec<_> = times.collect();
        let future = now() + TOLERANCE;
        for pair in times.windows(2) {
            let back = pair[1] - pair[0];
            if back > TOLERANCE {
                steps.backwards += 1;
                steps.largest = steps.largest.max(Some((back, pair[1])));
            }
        }
        let ahead = times.iter().filter(|time| **time > future);
        (steps.ahead, steps.latest) = (ahead.clone().count(), ahead.max().copied());
        steps
    }
}

pub(super) fn examine(files: &JobFiles, findings: &mut Findings) {
    let Some(entries) = findings.keep(files.entries_backwards()) else { return };
    let times = entries.take(MOST_LINES).filter_map(|entry| Some(entry.ok()?.time));
    let steps = Steps::of(times, || SystemClock.now());
    let path = files.dir.path_of(&files.ledger);
    let job = &files.job;
    let count = |count: usize| if count == 1 { "1 line lies".to_owned() } else { format!("{count} lines lie") };
    if let Some(latest) = steps.latest {
        let message = format!(
            "{}: job {job}: {} in the future, up to {}: the clock is wrong now, or was then; until that time --once-per starts \
             it again at once, check cannot tell that it is late, and history shows it out of order; look at `timedatectl`",
            path.display(),
            count(steps.ahead),
            shown(latest)
        );
        findings.problem(
            Trouble::new("clock_step", message).path(&path).with("job", job.as_str()).with("latest", shown(latest)),
        );
    }
    if let Some((largest, before)) = steps.largest {
        let times = if steps.backwards == 1 { "once".to_owned() } else { format!("{} times", steps.backwards) };
        findings.note(format!(
            "{}: job {job}: the clock was set back {times}, by {} s at {}; what history, check and --once-per say of that time is \
             off by as much",
            path.display(),
            largest.num_seconds(),
            shown(before)
        ));
    }
}

fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_from_a_jitter() {
        let at = |seconds: f64| {
            DateTime::UNIX_EPOCH + TimeDelta::from_std(std::time::Duration::from_secs_f64(seconds)).unwrap()
        };
        let steps = |times: &[f64]| Steps::of(times.iter().rev().map(|time| at(*time)), || at(100.0));
        assert_eq!(steps(&[]), Steps::default());
        assert_eq!(steps(&[1.0, 2.0, 1.5, 3.0, 100.5]), Steps::default());
        let found = steps(&[10.0, 50.0, 20.0, 90.0, 88.0, 95.0]);
        assert_eq!((found.backwards, found.largest), (2, Some((TimeDelta::seconds(30), at(50.0)))));
        assert_eq!((found.ahead, found.latest), (0, None));
        let found = steps(&[200.0, 300.0, 99.0]);
        assert_eq!((found.ahead, found.latest, found.backwards), (2, Some(at(300.0)), 1));
    }
}
