//! When a clock on the wall is put forward or back.

use chrono::{DateTime, Local, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _, Utc};

/// A clock is put forward or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transition {
    /// The first moment of the new offset.
    pub(crate) at: DateTime<Utc>,
    /// The offset from UTC until then, in seconds.
    pub(crate) before: i32,
    /// The offset from then on.
    pub(crate) after: i32,
}

impl Transition {
    /// The clock is put forward: it skips some time.
    pub(crate) fn is_gap(&self) -> bool {
        self.after > self.before
    }

    /// By how much.
    pub(crate) fn length(&self) -> TimeDelta {
        TimeDelta::seconds(i64::from(self.after - self.before)).abs()
    }

    /// The times of the wall's clock that are skipped or come twice: the first, and the first that is not any more.
    pub(crate) fn wall(&self) -> (NaiveDateTime, NaiveDateTime) {
        let shows = |offset: i32| self.at.naive_utc() + TimeDelta::seconds(i64::from(offset));
        let (one, other) = (shows(self.before), shows(self.after));
        (one.min(other), one.max(other))
    }
}

/// How far ahead one looks: both changes of a year, wherever it begins.
pub(crate) const AHEAD: TimeDelta = TimeDelta::days(366);

/// No zone has had two changes closer to each other.
pub(crate) const STEP: TimeDelta = TimeDelta::hours(6);

/// An hour of the wall's clock comes round again after so long at most (and a gap is no longer): more is taken for a
/// clock that was corrected.
pub(crate) const LONGEST_CHANGE: TimeDelta = TimeDelta::hours(3);

/// The offset of the machine's clock from UTC, in seconds.
pub(crate) fn offset(time: DateTime<Utc>) -> i32 {
    Local.offset_from_utc_datetime(&time.naive_utc()).fix().local_minus_utc()
}

/// The changes of the year to come.
pub(crate) fn transitions(now: DateTime<Utc>, offset: impl Fn(DateTime<Utc>) -> i32) -> Vec<Transition> {
    let mut found = Vec::new();
    // One that is under way matters too.
    let mut time = now - LONGEST_CHANGE;
    let mut before = offset(time);
    while time < now + AHEAD {
        let next = time + STEP;
        let after = offset(next);
        if after != before {
            let (mut old, mut new) = (time, next);
            while new - old > TimeDelta::seconds(1) {
                let middle = old + (new - old) / 2;
                *(if offset(middle) == before { &mut old } else { &mut new }) = middle;
            }
            // Changes happen at whole seconds, and `now` does not.
            let at = DateTime::from_timestamp(new.timestamp(), 0).unwrap_or(new);
            found.push(Transition { at, before, after });
        }
        (time, before) = (next, after);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_found_to_the_second() {
        let now: DateTime<Utc> = "2026-10-01T12:34:56.789Z".parse().unwrap();
        let at: DateTime<Utc> = "2026-10-25T01:00:00Z".parse().unwrap();
        let found = transitions(now, |time| if time < at { 7200 } else { 3600 });
        assert_eq!(found, [Transition { at, before: 7200, after: 3600 }]);
        assert!(!found[0].is_gap());
        let wall = found[0].wall();
        assert_eq!(wall.0.to_string(), "2026-10-25 02:00:00");
        assert_eq!(wall.1.to_string(), "2026-10-25 03:00:00");
    }
}
