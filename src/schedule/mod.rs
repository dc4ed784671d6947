//! When a scheduler will start a job: the next times on the wall's clock, and what becomes of those that the clock
//! skips or repeats.
//!
//! cron's five fields are judged here, by the rules that Debian's cron and cronie share ([`crate::crontab`]). systemd's calendar
//! events are judged by systemd's own tool ([`calendar`]), which is the source of their times as well: its rules for days
//! on which a clock is changed are nowhere written down.

mod calendar;

use std::collections::BTreeMap;

use chrono::{DateTime, Local, NaiveDateTime, TimeZone as _, Utc};
use serde::{Serialize, Serializer};

use crate::{
    config::Problem,
    crontab::{Crontab, Transition, zone},
    error::{Error, Result},
    job::definition::{Definition, Placed},
};

use calendar::{Calendar, Fault};

/// How many of the next times are shown.
const SHOWN: usize = 5;

/// When a job will be started.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Times {
    /// The expressions, as the scheduler is given them.
    pub(crate) expressions: Vec<String>,
    /// The next times.
    pub(crate) next: Vec<Moment>,
    /// The next time that a clock is put forward, and the next that it is put back, as far as it concerns the job.
    pub(crate) clock_changes: Vec<ClockChange>,
    /// What is odd about the expressions.
    #[serde(skip)]
    pub(crate) warnings: Vec<String>,
}

/// A time at which a job will be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Moment {
    #[serde(serialize_with = "local")]
    pub(crate) time: DateTime<Utc>,
    /// The clock on the wall shows that time twice on that day.
    pub(crate) shown_twice: bool,
}

/// A day on which a clock is changed, and the job's times are among those that it skips or repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ClockChange {
    pub(crate) kind: ChangeKind,
    pub(crate) expression: String,
    /// The first time of the wall's clock that is skipped or repeated.
    pub(crate) from: NaiveDateTime,
    /// The first that is not any more.
    pub(crate) to: NaiveDateTime,
    /// The time zone whose clock that is, when it is not the machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    /// What the scheduler does then.
    pub(crate) effect: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChangeKind {
    /// The clock is put forward.
    Gap,
    /// The clock is put back.
    Repeat,
}

fn local<S: Serializer>(time: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&time.with_timezone(&Local).to_rfc3339())
}

impl Times {
    /// When cron starts the job.
    ///
    /// # Errors
    /// `BadConfiguration` when there is no expression, or cron would not understand one, or would never run it.
    pub(crate) fn of_cron(definition: &Definition, now: DateTime<Utc>) -> Result<Self> {
        let placed = given(definition, &definition.schedule.cron, "cron", "\"15 3 * * *\"")?;
        let mut times = Self::default();
        let transitions = zone::transitions(now, zone::offset);
        for placed in placed {
            let bad = |why: String| bad(definition, placed, "cron", &why);
            let crontab: Crontab = placed.text.parse().map_err(bad)?;
            times.next.extend(crontab.next(now, SHOWN, &Local, &transitions).into_iter().map(moment));
            let changes =
                transitions.iter().filter(|transition| is_to_come(transition, now)).filter_map(|transition| {
                    let (from, to) = transition.wall();
                    let effect = crontab.effect(transition)?;
                    Some(change(transition, placed, from, to, None, effect.to_owned()))
                });
            times.clock_changes.extend(changes);
            if crontab.is_at_boot() {
                times.warnings.push(format!("{}: when cron starts, so there are no times to show", placed.text));
            }
            times.expressions.push(crontab.to_string());
        }
        Ok(times.settled())
    }

    /// When systemd starts the job.
    ///
    /// # Errors
    /// `BadConfiguration` when there is no expression, or systemd does not understand one, or none has a time to come;
    /// `NoScheduler` when its tool is missing.
    pub(crate) fn of_systemd(definition: &Definition, now: DateTime<Utc>) -> Result<Self> {
        let placed = given(definition, &definition.schedule.on_calendar, "on_calendar", "\"daily\"")?;
        let mut times = Self::default();
        let here = zone::transitions(now, zone::offset);
        for placed in placed {
            let fault = |fault: Fault| match fault {
                Fault::Refused(why) => bad(definition, placed, "on_calendar", &why),
                Fault::Tool(error) => error,
            };
            let calendar = Calendar::judge(&placed.text).map_err(fault)?;
            let next = calendar.next(now, SHOWN).map_err(fault)?;
            if next.is_empty() {
                times.warnings.push(format!("on_calendar: {:?} has no time to come", placed.text));
            }
            times.next.extend(next.into_iter().map(moment));
            let elsewhere = calendar.zone().map(|zone| calendar::transitions(zone, now)).transpose().map_err(fault)?;
            let (mut forward, mut back) = (false, false);
            for transition in elsewhere.as_ref().unwrap_or(&here) {
                if !is_to_come(transition, now) {
                    continue;
                }
                // Each costs a look of systemd's tool, and the first of each kind is what is shown.
                let seen = if transition.is_gap() { &mut forward } else { &mut back };
                if *seen {
                    continue;
                }
                if let Some(effect) = calendar.effect(transition).map_err(fault)? {
                    *seen = true;
                    let (from, to) = transition.wall();
                    let zone = calendar.zone().map(str::to_owned);
                    times.clock_changes.push(change(transition, placed, from, to, zone, effect));
                }
            }
            times.expressions.push(placed.text.clone());
        }
        if times.next.is_empty() {
            let why = "none of these times is still to come; correct on_calendar".to_owned();
            return Err(bad(definition, &placed[0], "on_calendar", &why));
        }
        Ok(times.settled())
    }

    /// The expressions alone, as the scheduler is given them; `None` when cron does not understand one.
    pub(crate) fn as_given(definition: &Definition, is_systemd: bool) -> Option<Self> {
        let schedule = &definition.schedule;
        let expressions = if is_systemd {
            schedule.on_calendar.iter().map(|placed| placed.text.clone()).collect()
        } else {
            let read = |placed: &Placed| Some(placed.text.parse::<Crontab>().ok()?.to_string());
            schedule.cron.iter().map(read).collect::<Option<_>>()?
        };
        Some(Self { expressions, ..Self::default() })
    }

    /// With the first times of all expressions, and the first change of each kind for each.
    fn settled(mut self) -> Self {
        self.next.sort_unstable();
        self.next.dedup();
        self.next.truncate(SHOWN);
        let mut first = BTreeMap::new();
        for change in self.clock_changes {
            first.entry((change.expression.clone(), change.kind)).or_insert(change);
        }
        self.clock_changes = first.into_values().collect();
        self.clock_changes.sort_by_key(|change| change.from);
        self
    }
}

/// What is wrong with the times that a job file gives. What systemd alone can judge is not judged where its tool is missing.
pub(crate) fn mistakes(definition: &Definition) -> Vec<Error> {
    let cron = definition.schedule.cron.iter().filter_map(|placed| {
        let why = placed.text.parse::<Crontab>().err()?;
        Some(bad(definition, placed, "cron", &why))
    });
    let calendar = definition.schedule.on_calendar.iter().filter_map(|placed| match Calendar::judge(&placed.text) {
        Err(Fault::Refused(why)) => Some(bad(definition, placed, "on_calendar", &why)),
        _ => None,
    });
    cron.chain(calendar).collect()
}

/// What is wrong with the time fields of a crontab line.
pub(crate) fn mistake_in_crontab(fields: &str) -> Option<String> {
    fields.parse::<Crontab>().err()
}

fn change(
    transition: &Transition,
    placed: &Placed,
    from: NaiveDateTime,
    to: NaiveDateTime,
    zone: Option<String>,
    effect: String,
) -> ClockChange {
    let kind = if transition.is_gap() { ChangeKind::Gap } else { ChangeKind::Repeat };
    ClockChange { kind, expression: placed.text.clone(), from, to, zone, effect }
}

/// Whether it is not over.
fn is_to_come(transition: &Transition, now: DateTime<Utc>) -> bool {
    let end = if transition.is_gap() { transition.at } else { transition.at + transition.length() };
    end > now
}

fn moment(time: DateTime<Utc>) -> Moment {
    let wall = time.with_timezone(&Local).naive_local();
    Moment { time, shown_twice: matches!(Local.from_local_datetime(&wall), chrono::LocalResult::Ambiguous(..)) }
}

fn given<'d>(definition: &Definition, placed: &'d [Placed], key: &str, example: &str) -> Result<&'d [Placed]> {
    if placed.is_empty() {
        let why = format!("there is no {key}, so nothing says when; add {key} = {example}");
        return Err(problem(definition, definition.line, &why));
    }
    Ok(placed)
}

fn bad(definition: &Definition, placed: &Placed, key: &str, why: &str) -> Error {
    problem(definition, placed.line, &format!("{key}: {:?}: {why}", placed.text))
}

/// What is wrong with a job's definition, at that line.
pub(crate) fn problem(definition: &Definition, line: usize, why: &str) -> Error {
    let name = &definition.name;
    let why = format!("job {name}: {why}");
    Problem { path: definition.path.clone(), line, why, job: Some(name.to_string()) }.into_error()
}
