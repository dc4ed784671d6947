//! The times of crontab(5), as Debian's cron and cronie both read them.
//!
//! Half of what other programs call cron expressions means something else to cron, or is cut off without a word: of
//! `1#2` it reads the 1, and `fri-mon` it never runs. So an expression is read here by the strict grammar first. What is
//! left is whole numbers, and croner finds the times that they mean.
//!
//! - A day must be both of the month's and of the week's days when either field begins with a star (`*/2` does), and
//!   otherwise one of the two.
//! - When the clock is put forward or back by less than 3 hours, a job whose minute or hour begins with a star goes by the
//!   clock. Any other is started right after a gap that skips its time, and only once when its time comes twice.

mod tick;
pub(crate) mod zone;

use std::{fmt, str::FromStr};

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

pub use tick::Tick;
pub(crate) use zone::{LONGEST_CHANGE, Transition};

/// An expression that cron understands.
#[derive(Debug, Clone)]
pub(crate) struct Crontab {
    text: String,
    /// `None` for `@reboot`.
    times: Option<Times>,
}

#[derive(Debug, Clone)]
struct Times {
    cron: Box<Cron>,
    /// The minute or the hour begins with a star.
    is_wild: bool,
}

struct Field {
    what: &'static str,
    low: u8,
    high: u8,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { what: "minute", low: 0, high: 59, names: &[] },
    Field { what: "hour", low: 0, high: 23, names: &[] },
    Field { what: "day of month", low: 1, high: 31, names: &[] },
    Field {
        what: "month",
        low: 1,
        high: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field { what: "day of week", low: 0, high: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@annually", "0 0 1 1 *"),
    ("@yearly", "0 0 1 1 *"),
];

const REBOOT: &str = "@reboot";

impl FromStr for Crontab {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        let fields = match words[..] {
            [REBOOT] => return Ok(Self { text: REBOOT.to_owned(), times: None }),
            [word] if word.starts_with('@') => match WORDS.iter().find(|(known, _)| *known == word) {
                Some((_, fields)) => fields.split(' ').collect(),
                None => {
                    let known = WORDS.iter().map(|(word, _)| *word).chain([REBOOT]).collect::<Vec<_>>().join(" ");
                    return Err(format!("cron knows no {word}; its words are {known}"));
                }
            },
            [_, _, _, _, _] => words.clone(),
            _ => return Err(miscounted(words.len())),
        };
        let times = Times::read(&fields)?;
        Ok(Self { text: words.join(" "), times: Some(times) })
    }
}

fn miscounted(count: usize) -> String {
    match count {
        6 => "six fields: crontab(5) has no seconds and no years; give minute, hour, day of month, month, day of week"
            .to_owned(),
        7 => {
            "seven fields: crontab(5) has no seconds and no years; give minute, hour, day of month, month, day of week"
                .to_owned()
        }
        count => {
            let fields = if count == 1 { "field" } else { "fields" };
            format!("{count} {fields}, and five are needed: minute, hour, day of month, month, day of week")
        }
    }
}

impl Times {
    fn read(fields: &[&str]) -> Result<Self, String> {
        let mut sets = [0u64; 5];
        for ((field, text), set) in FIELDS.iter().zip(fields).zip(&mut sets) {
            *set = field.read(text).map_err(|why| format!("{}: {why}", field.what))?;
        }
        // Sunday is 0 and 7.
        if sets[4] & 1 << 7 != 0 {
            sets[4] = sets[4] & !(1 << 7) | 1;
        }
        let starred = |at: usize| fields[at].starts_with('*');
        let both = starred(2) || starred(4);
        if both && !FIELDS[3].values(sets[3]).any(|month| FIELDS[2].values(sets[2]).any(|day| day <= longest(month))) {
            return Err("no month of those has such a day, so it would never run".to_owned());
        }
        // In numbers alone, nothing can mean two things.
        let numbers = |at: usize| -> String {
            if fields[at] == "*" {
                return "*".to_owned();
            }
            FIELDS[at].values(sets[at]).map(|value| value.to_string()).collect::<Vec<_>>().join(",")
        };
        let pattern = (0..5).map(numbers).collect::<Vec<_>>().join(" ");
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).dom_and_dow(both).build();
        let cron = Box::new(parser.parse(&pattern).map_err(|e| e.to_string())?);
        Ok(Self { cron, is_wild: starred(0) || starred(1) })
    }
}

/// The most days that a month has.
fn longest(month: u8) -> u8 {
    match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl Field {
    /// The values that the field allows, a bit each.
    fn read(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |set, item| Ok(set | self.item(item)?))
    }

    fn values(&self, set: u64) -> impl Iterator<Item = u8> + use<> {
        (self.low..=self.high).filter(move |value| set & 1 << value != 0)
    }

    fn item(&self, item: &str) -> Result<u64, String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.low, self.high),
            Some((first, last)) => (self.value(first, item)?, self.value(last, item)?),
            None => {
                let value = self.value(range, item)?;
                if step.is_some() {
                    return Err(format!(
                        "{item:?}: a step follows * or a range, as in */5 or {range}-{}/5",
                        self.high.min(59)
                    ));
                }
                (value, value)
            }
        };
        if first > last {
            let is_sunday = self.high == 7 && last == 0;
            let instead = if is_sunday { "; Sunday is also 7" } else { "; write two ranges" };
            return Err(format!("{item:?} runs backwards, and cron would never run it{instead}"));
        }
        let step = match step {
            None => 1,
            Some(digits) => match digits.parse::<u16>() {
                Ok(step) if step > 0 && is_number(digits) => usize::from(step),
                _ => return Err(format!("{item:?}: the step must be a whole number from 1")),
            },
        };
        Ok((first..=last).step_by(step).fold(0, |set, value| set | 1 << value))
    }

    fn value(&self, text: &str, item: &str) -> Result<u8, String> {
        let name = |name: &&str| name.eq_ignore_ascii_case(text);
        if let Some(at) = self.names.iter().position(name) {
            return Ok(self.low + u8::try_from(at).unwrap_or_default());
        }
        if !is_number(text) {
            return Err(self.foreign(item));
        }
        let value = text.parse::<u8>().ok().filter(|value| (self.low..=self.high).contains(value));
        value.ok_or_else(|| format!("{text} is not from {} to {}", self.low, self.high))
    }

    /// What is to be said of something that other programs understand, or nobody.
    fn foreign(&self, item: &str) -> String {
        let other = |what: &str| format!("{item:?}: crontab(5) has no {what}");
        let is_day = self.what.starts_with("day");
        match item {
            "" => "an item of the list is empty".to_owned(),
            item if item.contains('?') => other("?; write *"),
            item if item.contains('#') => other("#; test for the week in the command"),
            item if item.contains('~') => other("~ that every cron knows; give jitter in the job file"),
            item if item.contains('*') => format!("{item:?}: a * stands alone, or before a step as in */5"),
            item if is_day && item.contains(['L', 'l']) && item.len() <= 3 => {
                other("L; test for the last day in the command")
            }
            item if is_day && item.ends_with(['W', 'w']) => other("W; test for the weekday in the command"),
            item if item == "H" || item.starts_with("H/") || item.starts_with("H(") => {
                other("H; give jitter in the job file")
            }
            item => {
                let names = match self.names {
                    [] => String::new(),
                    names => format!(", or one of {}", names.join(" ")),
                };
                format!("{item:?} is not a number from {} to {}{names}", self.low, self.high)
            }
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl Crontab {
    /// It is started when cron is.
    pub(crate) fn is_at_boot(&self) -> bool {
        self.times.is_none()
    }

    /// The next times, at least so many when there are, after `now`.
    pub(crate) fn next<Z: TimeZone>(
        &self,
        now: DateTime<Utc>,
        count: usize,
        zone: &Z,
        transitions: &[Transition],
    ) -> Vec<DateTime<Utc>> {
        let Some(Times { is_wild, .. }) = &self.times else { return Vec::new() };
        // Where the clock shows a time for the second time, it was that late before.
        let from = now.with_timezone(zone).naive_local() - LONGEST_CHANGE;
        let mut next: Vec<DateTime<Utc>> = Vec::new();
        for wall in self.walls(from) {
            let enough = next.get(count.saturating_sub(1)).map(|last| last.with_timezone(zone).naive_local());
            if enough.is_some_and(|last| wall > last + LONGEST_CHANGE) {
                break;
            }
            let is_in_gap = |transition: &&Transition| {
                let (from, to) = transition.wall();
                transition.is_gap() && from <= wall && wall < to
            };
            let times = match zone.from_local_datetime(&wall) {
                LocalResult::Single(time) => vec![time.to_utc()],
                LocalResult::Ambiguous(first, second) if *is_wild => vec![first.to_utc(), second.to_utc()],
                LocalResult::Ambiguous(first, _) => vec![first.to_utc()],
                LocalResult::None if *is_wild => Vec::new(),
                LocalResult::None => transitions.iter().find(is_in_gap).map(|gap| gap.at).into_iter().collect(),
            };
            next.extend(times.into_iter().filter(|time| *time > now));
            next.sort_unstable();
            next.dedup();
        }
        next.truncate(count);
        next
    }

    /// What the wall's clock shows at its times, from `from` on.
    fn walls(&self, from: NaiveDateTime) -> impl Iterator<Item = NaiveDateTime> + '_ {
        // To croner it is a clock that is never changed.
        let mut last = from.and_utc() - TimeDelta::nanoseconds(1);
        std::iter::from_fn(move || {
            let next = self.times.as_ref()?.cron.find_next_occurrence(&last, false).ok()?;
            last = next;
            Some(next.naive_utc())
        })
    }

    /// What cron does when the clock is changed so, if a time of this expression is concerned.
    pub(crate) fn effect(&self, transition: &Transition) -> Option<&'static str> {
        let times = self.times.as_ref()?;
        let (from, to) = transition.wall();
        if self.walls(from).next()? >= to {
            return None;
        }
        let is_small = transition.length() < LONGEST_CHANGE;
        Some(match (transition.is_gap(), times.is_wild || !is_small) {
            (true, true) => "cron does not make up for it, since the minute or the hour is a *",
            (true, false) => "cron starts the job right after it",
            (false, true) => "cron starts the job both times, since the minute or the hour is a *",
            (false, false) => "cron starts the job the first time only",
        })
    }
}

impl fmt::Display for Crontab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
