//! systemd's calendar events, systemd.time(7), as its own tool reads them.

use std::{io, process::Command};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};

use crate::crontab::{Transition, zone};
use crate::error::Error;

const TOOL: &str = "systemd-analyze";

/// A calendar event that systemd understands.
#[derive(Debug, Clone)]
pub(super) struct Calendar {
    text: String,
    /// In systemd's own words, without its time zone.
    bare: String,
    /// The time zone that it names.
    zone: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// systemd does not understand the event.
    Refused(String),
    /// Its tool cannot be asked.
    Tool(Error),
}

/// A time at which an event comes.
#[derive(Debug, Clone, Copy)]
struct Elapse {
    utc: DateTime<Utc>,
    /// What the clock on the wall shows then.
    wall: NaiveDateTime,
}

impl Calendar {
    pub(super) fn judge(text: &str) -> Result<Self, Fault> {
        let answer = ask(text, None, &[])?;
        let normal = value(&answer, "Normalized form").unwrap_or(text);
        // What follows the time of day, the one word with colons, is a zone.
        let (bare, zone) = match normal.rsplit_once(' ') {
            Some((bare, last)) if !last.contains(':') => (bare, Some(last.to_owned())),
            _ => (normal, None),
        };
        Ok(Self { text: text.to_owned(), bare: bare.to_owned(), zone })
    }

    /// The time zone that it names.
    pub(super) fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The next times after `now`.
    pub(super) fn next(&self, now: DateTime<Utc>, count: usize) -> Result<Vec<DateTime<Utc>>, Fault> {
        let elapses = elapses(&self.text, None, now, count)?;
        Ok(elapses.into_iter().map(|elapse| elapse.utc).collect())
    }

    /// What systemd does when the clock is changed so, if a time of this event is concerned. It is the tool that tells.
    pub(super) fn effect(&self, transition: &Transition) -> Result<Option<String>, Fault> {
        let (from, to) = transition.wall();
        // By a clock that is never changed: does it have a time there?
        let before = from.and_utc() - TimeDelta::seconds(1);
        let on_the_wall = elapses(&self.bare, Some("UTC"), before, 1)?;
        if on_the_wall.first().is_none_or(|elapse| elapse.wall >= to) {
            return Ok(None);
        }
        if transition.is_gap() {
            return Ok(Some("systemd leaves it out and does not make up for it".to_owned()));
        }
        let begin = transition.at - transition.length();
        let times = elapses(&self.text, None, begin - TimeDelta::seconds(1), MOST)?;
        let end = transition.at + transition.length();
        let (first, second): (Vec<&Elapse>, Vec<&Elapse>) =
            times.iter().filter(|elapse| elapse.utc < end).partition(|elapse| elapse.utc < transition.at);
        Ok(Some(
            match (first.is_empty(), second.is_empty()) {
                (false, true) => "systemd starts the job the first time only",
                (true, false) => "systemd starts the job the second time only",
                (false, false) => "systemd starts the job both times",
                (true, true) => "systemd leaves it out both times",
            }
            .to_owned(),
        ))
    }
}

/// An event may come each second of a repeated hour; so many of them tell enough.
const MOST: usize = 4000;

/// The changes of a zone's clock in the year to come. It is systemd's tool that knows the zone: shown by the clock of
/// that zone, moments of UTC tell its offset.
pub(super) fn transitions(zone_name: &str, now: DateTime<Utc>) -> Result<Vec<Transition>, Fault> {
    let steps = usize::try_from(zone::AHEAD.num_hours() / zone::STEP.num_hours() + 1).unwrap_or_default();
    let mut found = Vec::new();
    let coarse = elapses("*-*-* 00/6:00:00 UTC", Some(zone_name), now - zone::STEP - zone::STEP, steps)?;
    for pair in coarse.windows(2) {
        if offset(&pair[0]) == offset(&pair[1]) {
            continue;
        }
        let minutes = usize::try_from((pair[1].utc - pair[0].utc).num_minutes()).unwrap_or_default();
        let start = pair[0].utc - TimeDelta::seconds(1);
        let fine = elapses("*-*-* *:*:00 UTC", Some(zone_name), start, minutes + 1)?;
        for pair in fine.windows(2) {
            let (before, after) = (offset(&pair[0]), offset(&pair[1]));
            if before != after {
                found.push(Transition { at: pair[1].utc, before, after });
            }
        }
    }
    Ok(found)
}

fn offset(elapse: &Elapse) -> i32 {
    i32::try_from((elapse.wall - elapse.utc.naive_utc()).num_seconds()).unwrap_or_default()
}

/// The times after `after`, by the clock of that zone.
fn elapses(event: &str, zone: Option<&str>, after: DateTime<Utc>, count: usize) -> Result<Vec<Elapse>, Fault> {
    let base = format!("--base-time=@{}", after.timestamp());
    let answer = ask(event, zone, &[&format!("--iterations={count}"), &base])?;
    let mut found: Vec<Elapse> = Vec::new();
    for line in answer.lines() {
        let Some((what, shown)) = line.trim_start().split_once(": ") else { continue };
        let Some(wall) = time(shown) else { continue };
        match what {
            // A clock that shows UTC has only this line.
            _ if what == "Next elapse" || what.starts_with("Iter") => found.push(Elapse { utc: wall.and_utc(), wall }),
            "(in UTC)" => {
                if let Some(last) = found.last_mut() {
                    last.utc = wall.and_utc();
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// `Sun 2026-10-25 02:30:00 CEST`
fn time(shown: &str) -> Option<NaiveDateTime> {
    let mut words = shown.split_whitespace().skip(1);
    let (date, time) = (words.next()?, words.next()?);
    NaiveDateTime::parse_from_str(&format!("{date} {time}"), "%Y-%m-%d %H:%M:%S").ok()
}

fn value<'a>(answer: &'a str, wanted: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.trim_start().strip_prefix(wanted)?.strip_prefix(": "))
}

fn ask(event: &str, zone: Option<&str>, options: &[&str]) -> Result<String, Fault> {
    let mut command = Command::new(TOOL);
    command.env("LC_ALL", "C").env("SYSTEMD_COLORS", "0").env("SYSTEMD_LOG_LEVEL", "err").arg("calendar");
    if let Some(zone) = zone {
        command.env("TZ", zone);
    }
    let output = command.args(options).arg("--").arg(event).output().map_err(|e| {
        Fault::Tool(match e.kind() {
            io::ErrorKind::NotFound => Error::NoScheduler(format!(
                "{TOOL} is missing, and only systemd can tell what a calendar event means; install systemd, or use `install cron`"
            )),
            _ => Error::io("run", TOOL, e),
        })
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default();
    if !said.contains("calendar specification") {
        return Err(Fault::Tool(Error::NoScheduler(format!("{TOOL} failed, so nothing can be told: {said}"))));
    }
    Err(Fault::Refused("no calendar event to systemd; see systemd.time(7), as in \"Mon..Fri 03:15\"".to_owned()))
}

#[cfg(test)]
#[path = "calendar_tests.rs"]
mod tests;
