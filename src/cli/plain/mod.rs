//! The command lines that machines write by the thousand, read without the general parser.
//!
//! A booking in a process of its own, or a job that cron starts, takes about half a millisecond, and building the
//! general parser is a sixth of that. So the plain spelling of `book`, `cancel`, `run` and `queue add` (each value a word of its own,
//! each option at most once) is read here. Anything else, and anything that is wrong, is left to the general parser,
//! whose errors and help are the only ones. Property tests hold the two against each other: what is understood here
//! means the same there.

mod booking;
mod queue;
mod run;

use std::ffi::OsString;

use super::{Cli, Color, Command, Global};

/// What the arguments (without the program's name) say, or `None` to have them parsed in general.
pub(crate) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Cli> {
    let mut global = GlobalWords::default();
    let command = loop {
        let word = arguments.next()?;
        if !global.take(word.to_str()?, &mut arguments)? {
            break word;
        }
    };
    let command = match command.to_str()? {
        "book" => Command::Book(booking::book(&mut global, arguments)?),
        "cancel" => Command::Cancel(booking::cancel(&mut global, arguments)?),
        "queue" => Command::Queue(queue::queue(&mut global, arguments)?),
        "run" => Command::Run(Box::new(run::run(&mut global, arguments)?)),
        _ => return None,
    };
    Some(Cli { global: global.lower(), command })
}

/// The global options of a plain command line, which may stand before or after the command.
#[derive(Default)]
struct GlobalWords {
    state_dir: Option<OsString>,
    json: bool,
    quiet: bool,
}

impl GlobalWords {
    /// Whether the word is a global option, which is then taken with its value; `None` when it is not plain.
    fn take(&mut self, word: &str, arguments: &mut impl Iterator<Item = OsString>) -> Option<bool> {
        let once = match word {
            "--json" => !std::mem::replace(&mut self.json, true),
            "-q" | "--quiet" => !std::mem::replace(&mut self.quiet, true),
            "--state-dir" => {
                let dir = value(arguments).filter(|dir| !dir.is_empty())?;
                self.state_dir.replace(dir).is_none()
            }
            _ => return Some(false),
        };
        once.then_some(true)
    }

    fn lower(self) -> Global {
        Global {
            state_dir: self.state_dir.map(Into::into),
            store: Vec::new(),
            allow_network_fs: false,
            json: self.json,
            quiet: self.quiet,
            verbose: false,
            color: Color::Auto,
        }
    }
}

/// The value of an option: the next word, if it cannot be taken for another option.
fn value(arguments: &mut impl Iterator<Item = OsString>) -> Option<OsString> {
    arguments.next().filter(|value| !value.as_encoded_bytes().starts_with(b"-"))
}

/// Sets what may be said once.
fn once<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    pub(super) fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    /// Whether the line is plain; fails when the general parser reads it otherwise.
    #[track_caller]
    pub(super) fn is_plain(line: &[OsString]) -> bool {
        let Some(plain) = parse(line.iter().cloned()) else { return false };
        let general = Cli::try_parse_from(std::iter::once(OsString::from("triplock")).chain(line.iter().cloned()));
        let general = general.map(|cli| format!("{cli:?}")).map_err(|e| e.to_string());
        assert_eq!(Ok(format!("{plain:?}")), general, "{line:?}");
        true
    }

    #[test]
    fn the_plain_spelling_is_read_here() {
        for line in [
            "book 1 --student 7",
            "--state-dir /s -q book 1 --student 7 --seats 3 -w 0.3 --request-id r",
            "cancel 1 --student 7 -n --json",
            "run J -- true",
            "queue add L -- true",
            "queue add L --slots 2 --after L/1 --after m/2 --even-if-failed -k 5 --json sh -c x",
            "run J true",
            "run J",
            "-q run J -n --state-dir /s -- sh -c x",
            "run J --time-limit 60 -k 5 --output on-failure --lock a --lock b backup --json",
        ] {
            assert!(is_plain(&words(line)), "{line}");
        }
    }

    #[test]
    fn a_commands_options_come_after_it() {
        for line in ["--student 7 book 7", "-n book 7 --student 7", "-n run J c"] {
            assert!(!is_plain(&words(line)), "{line}");
        }
    }
}
