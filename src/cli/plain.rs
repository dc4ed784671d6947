//! The bookings that machines ask for, read without the general parser.
//!
//! A booking in a process of its own takes about half a millisecond, and building the general parser is a sixth of
//! that. So the plain spelling of `book` and `cancel` (each value a word of its own, each option at most once) is read
//! here. Anything else, and anything that is wrong, is left to the general parser, whose errors and help are the only
//! ones. A property test holds the two against each other: what is understood here means the same there.

use std::ffi::{OsStr, OsString};

use super::{Book, Cancel, Cli, Color, Command, DEFAULT_WAIT, Global, Request, duration, seats};

/// What the arguments (without the program's name) say, or `None` to have them parsed in general.
pub(crate) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Cli> {
    let mut words = Words::default();
    while let Some(word) = arguments.next() {
        let once = match word.to_str()? {
            "--json" => !std::mem::replace(&mut words.json, true),
            "-q" | "--quiet" => !std::mem::replace(&mut words.quiet, true),
            // The command's own options come after it.
            "-n" | "--nonblock" if words.command.is_some() => !std::mem::replace(&mut words.nonblock, true),
            option if option.starts_with('-') => {
                let slot = match option {
                    "--state-dir" => &mut words.state_dir,
                    _ if words.command.is_none() => return None,
                    "--student" => &mut words.student,
                    "--seats" => &mut words.seats,
                    "-w" | "--wait" => &mut words.wait,
                    "--request-id" => &mut words.request_id,
                    _ => return None,
                };
                let value = arguments.next().filter(|value| !value.as_encoded_bytes().starts_with(b"-"))?;
                slot.replace(value).is_none()
            }
            _ if words.command.is_none() => words.command.replace(word).is_none(),
            _ => words.trip.replace(word).is_none(),
        };
        if !once {
            return None;
        }
    }
    words.lower()
}

/// The words of a plain command line, each in its place.
#[derive(Default)]
struct Words {
    command: Option<OsString>,
    trip: Option<OsString>,
    state_dir: Option<OsString>,
    student: Option<OsString>,
    seats: Option<OsString>,
    wait: Option<OsString>,
    request_id: Option<OsString>,
    json: bool,
    quiet: bool,
    nonblock: bool,
}

impl Words {
    fn lower(self) -> Option<Cli> {
        let text = |word: &Option<OsString>| word.as_deref().and_then(OsStr::to_str).map(str::to_owned);
        if (self.nonblock && self.wait.is_some()) || self.state_dir.as_ref().is_some_and(|dir| dir.is_empty()) {
            return None;
        }
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
        let request = Request { nonblock: self.nonblock, wait: duration(&wait).ok()?, request_id };
        let command = match (text(&self.command)?.as_str(), &self.seats) {
            ("book", given) => {
                let seats = match given {
                    Some(_) => seats(&text(&self.seats)?).ok()?,
                    None => 1,
                };
                Command::Book(Book { trip, student: Some(student), seats, batch: None, request })
            }
            ("cancel", None) => Command::Cancel(Cancel { trip, student, request }),
            _ => return None,
        };
        let global = Global {
            state_dir: self.state_dir.map(Into::into),
            allow_network_fs: false,
            json: self.json,
            quiet: self.quiet,
            verbose: false,
            color: Color::Auto,
        };
        Some(Cli { global, command })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use proptest::prelude::*;

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

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_plain_spelling_is_read_here() {
        for line in [
            "book 1 --student 7",
            "--state-dir /s -q book 1 --student 7 --seats 3 -w 0.3 --request-id r",
            "cancel 1 --student 7 -n --json",
        ] {
            assert!(parse(words(line).into_iter()).is_some(), "{line}");
        }
    }

    #[test]
    fn a_commands_options_come_after_it() {
        for line in ["--student 7 book 7", "-n book 7 --student 7"] {
            assert!(parse(words(line).into_iter()).is_none(), "{line}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_is_understood_means_the_same_in_general(
            head in prop::sample::select(vec!["", "--student 7", "book 1", "cancel 1", "book 1 --student 7", "cancel 1 --student 7"]),
            tail in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..6),
        ) {
            let mut line: Vec<OsString> = if head.is_empty() { Vec::new() } else { words(head) };
            line.extend(tail.iter().map(OsString::from));
            if let Some(plain) = parse(line.clone().into_iter()) {
                let general = Cli::try_parse_from(std::iter::once(OsString::from("triplock")).chain(line.clone()));
                prop_assert_eq!(Some(format!("{plain:?}")), general.ok().map(|cli| format!("{cli:?}")), "{:?}", line);
            }
        }
    }
}
