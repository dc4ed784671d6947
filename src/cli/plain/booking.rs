//! `book` and `cancel`.

use std::ffi::{OsStr, OsString};

use super::{
    super::{Book, Cancel, DEFAULT_WAIT, Request, duration, seats},
    GlobalWords, once, value,
};
use crate::name::{Name, Student};

pub(super) fn book(global: &mut GlobalWords, arguments: impl Iterator<Item = OsString>) -> Option<Book> {
    let words = Words::read(global, arguments)?;
    let seats = match &words.seats {
        Some(given) => seats(given.to_str()?).ok()?,
        None => 1,
    };
    let (trip, student, request) = words.lower()?;
    Some(Book { trip, student: Some(student), seats, batch: None, request })
}

pub(super) fn cancel(global: &mut GlobalWords, arguments: impl Iterator<Item = OsString>) -> Option<Cancel> {
    let words = Words::read(global, arguments)?;
    if words.seats.is_some() {
        return None;
    }
    let (trip, student, request) = words.lower()?;
    Some(Cancel { trip, student, request })
}

/// The words after the command, each in its place.
#[derive(Default)]
struct Words {
    trip: Option<OsString>,
    student: Option<OsString>,
    seats: Option<OsString>,
    wait: Option<OsString>,
    request_id: Option<OsString>,
    nonblock: bool,
}

impl Words {
    fn read(global: &mut GlobalWords, mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut words = Self::default();
        while let Some(word) = arguments.next() {
            let text = word.to_str()?;
            if global.take(text, &mut arguments)? {
                continue;
            }
            let slot = match text {
                "-n" | "--nonblock" if words.nonblock => return None,
                "-n" | "--nonblock" => {
                    words.nonblock = true;
                    continue;
                }
                "--student" => &mut words.student,
                "--seats" => &mut words.seats,
                "-w" | "--wait" => &mut words.wait,
                "--request-id" => &mut words.request_id,
                option if option.starts_with('-') => return None,
                _ => {
                    once(&mut words.trip, word)?;
                    continue;
                }
            };
            once(slot, value(&mut arguments)?)?;
        }
        Some(words)
    }

    fn lower(self) -> Option<(Name, Student, Request)> {
        if self.nonblock && self.wait.is_some() {
            return None;
        }
        let text = |word: &Option<OsString>| word.as_deref().and_then(OsStr::to_str).map(str::to_owned);
        // `None` when the word is missing: so is the whole then, since the general parser knows what to say.
        let trip = text(&self.trip)?.parse().ok()?;
        let student = text(&self.student)?.parse().ok()?;
        let request_id = match &self.request_id {
            Some(_) => Some(text(&self.request_id)?.parse().ok()?),
            None => None,
        };
        let wait = match &self.wait {
            Some(_) => text(&self.wait)?,
            None => DEFAULT_WAIT.to_owned(),
        };
        Some((trip, student, Request { nonblock: self.nonblock, wait: duration(&wait).ok()?, request_id }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{is_plain, words};
    use super::*;

    const WORDS: [&str; 32] = [
        "book",
        "cancel",
        "trip",
        "race",
        "1",
        "x.y",
        "a/b",
        "",
        "-",
        "--",
        "--student",
        "--student",
        "--student=7",
        "7",
        "anna@example.org",
        "--seats",
        "--seats",
        "2",
        "0",
        "-1",
        "4294967296",
        "-n",
        "--nonblock",
        "-w",
        "--wait",
        "0.3",
        "5m",
        "-w1",
        "--request-id",
        "--json",
        "-q",
        "--state-dir",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_is_understood_means_the_same_in_general(
            head in prop::sample::select(vec!["", "--student 7", "book 1", "cancel 1", "book 1 --student 7", "cancel 1 --student 7"]),
            tail in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..6),
        ) {
            let mut line: Vec<OsString> = if head.is_empty() { Vec::new() } else { words(head) };
            line.extend(tail.iter().map(OsString::from));
            is_plain(&line);
        }
    }
}
