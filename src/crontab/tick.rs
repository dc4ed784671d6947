//! The times of which each is one run, on whichever host.
//!
//! A host's cron starts its job at the time that this host's clock shows, and no two clocks agree. So which time a run is
//! for is decided by the server's clock alone, and leniently: the time that is *nearest* to the server's now, if that is
//! yet to come by no more than [`AHEAD`] and half the way to it, else the last one. A host whose clock is a few seconds
//! ahead asks for the time that it means, and not for the one before, which would be done already and leave the new one
//! to nobody.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Local, TimeDelta, Utc};

use super::{Crontab, zone};

/// How far ahead of the server's clock a host may ask for a time.
const AHEAD: TimeDelta = TimeDelta::seconds(30);

/// How far back a last time is looked for: a leap day comes after 8 years at most.
const SPANS: [TimeDelta; 5] =
    [TimeDelta::minutes(5), TimeDelta::hours(3), TimeDelta::days(3), TimeDelta::days(400), TimeDelta::days(9 * 366)];

/// Five fields of a crontab, as the times of runs.
#[derive(Debug, Clone)]
pub struct Tick(Crontab);

impl FromStr for Tick {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let crontab: Crontab = given.parse()?;
        if crontab.is_at_boot() {
            return Err("@reboot is no time that hosts share; give five fields".to_owned());
        }
        Ok(Self(crontab))
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for Tick {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Tick {
    /// The time that a run is for that asks now; `None` when there was none for years and none is near.
    pub(crate) fn nearest(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let last = self.last(now);
        let next = self.times(now, 1).first().copied();
        match (last, next) {
            (last, Some(next)) if next - now <= AHEAD && last.is_none_or(|last| next - now <= now - last) => Some(next),
            (last, _) => last,
        }
    }

    /// The times after one and before another, at most so many.
    pub(crate) fn between(&self, after: DateTime<Utc>, before: DateTime<Utc>, most: usize) -> Vec<DateTime<Utc>> {
        self.times(after, most).into_iter().take_while(|time| *time < before).collect()
    }

    /// The last time up to then.
    fn last(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // A span has some hundreds of times at most: the first that has any ends the search.
        SPANS.into_iter().find_map(|span| {
            let mut last = None;
            let mut from = now - span;
            while let Some(time) = self.times(from, 64).into_iter().take_while(|time| *time <= now).last() {
                (last, from) = (Some(time), time);
            }
            last
        })
    }

    fn times(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        self.0.next(after, count, &Local, &zone::transitions(after, zone::offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_run_is_for_the_time_that_is_nearest() {
        let tick: Tick = "*/5 * * * *".parse().unwrap();
        let nearest =
            |now: &str| tick.nearest(at(&format!("2026-11-29T{now}Z"))).unwrap().format("%H:%M:%S").to_string();
        assert_eq!(nearest("12:05:00"), "12:05:00");
        assert_eq!(nearest("12:04:58"), "12:05:00", "a host whose clock is 2 s ahead");
        assert_eq!(nearest("12:04:29"), "12:00:00", "31 s are too many");
        assert_eq!(nearest("12:07:00"), "12:05:00");
        let minutely: Tick = "* * * * *".parse().unwrap();
        assert_eq!(minutely.nearest(at("2026-11-29T12:00:31Z")), Some(at("2026-11-29T12:01:00Z")));
        assert_eq!(minutely.nearest(at("2026-11-29T12:00:29Z")), Some(at("2026-11-29T12:00:00Z")));
    }

    #[test]
    fn rare_times_are_found() {
        let tick: Tick = "0 12 29 2 *".parse().unwrap();
        let last = tick.nearest(at("2026-11-29T12:00:00Z")).unwrap();
        assert_eq!(last.format("%Y-%m-%d").to_string(), "2024-02-29");
        assert_eq!(tick.between(last, at("2033-01-01T00:00:00Z"), 9).len(), 2);
    }

    #[test]
    fn a_boot_is_no_time() {
        assert!("@reboot".parse::<Tick>().is_err() && "* * * *".parse::<Tick>().is_err());
    }
}
