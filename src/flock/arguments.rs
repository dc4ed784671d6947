//! flock(1)'s command line, read as `getopt_long(3)` reads it: options end at the first other word, short ones may be
//! joined (`-xn`, `-w.5`), long ones shortened (`--time=1`), and what is ambiguous is told as there. (clap can be taught
//! neither the abbreviations nor the words, and to build it would cost more than all the rest.)
//!
//! triplock's own options are taken in full only, so that no abbreviation becomes ambiguous that is not so there.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    time::Duration,
};

use super::{
    message::Failure,
    number::{self, NotWhole, Seconds},
};
use crate::name::Name;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Help,
    Version,
    Lock(Request),
}

/// A lock, and what to do under it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) operation: Operation,
    pub(super) wait: Wait,
    pub(super) conflict_exit_code: u8,
    pub(super) close: bool,
    pub(super) no_fork: bool,
    pub(super) verbose: bool,
    pub(super) target: Target,
    pub(super) record: Option<Record>,
}

/// What is done to the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Shared,
    Exclusive,
    Unlock,
}

/// How long the lock is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Forever,
    No,
    For(Duration),
    /// A time that no timer takes: the lock is not asked for.
    Impossible,
}

/// What is locked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Descriptor(i32),
    File { path: OsString, command: Vec<OsString> },
}

/// In whose ledger the run is recorded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) job: Name,
    pub(super) state: State,
}

/// Where the ledgers are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) allow_network_fs: bool,
}

/// Reads the words after the program's name. `state` is what was said before them.
pub(super) fn parse(words: Vec<OsString>, state: State) -> Result<Asked, Failure> {
    if words.is_empty() {
        return Err(Failure::usage(&[b"not enough arguments"]).with_hint());
    }
    let mut said = Said { state, ..Said::default() };
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next_if(|word| is_option(word)) {
        if word == "--" {
            break;
        }
        let asked = match word.as_bytes().strip_prefix(b"--") {
            Some(long) => said.long(long, &mut words)?,
            None => said.cluster(&word.as_bytes()[1..], &mut words)?,
        };
        if let Some(asked) = asked {
            return Ok(asked);
        }
    }
    said.request(words.collect())
}

fn is_option(word: &OsStr) -> bool {
    matches!(word.as_bytes(), [b'-', _, ..])
}

type Words = std::iter::Peekable<std::vec::IntoIter<OsString>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    Shared,
    Exclusive,
    Unlock,
    Nonblock,
    Timeout,
    ConflictExitCode,
    Close,
    NoFork,
    Verbose,
    Help,
    Version,
    Job,
    StateDir,
    AllowNetworkFs,
}

impl Switch {
    fn takes_value(self) -> bool {
        matches!(self, Self::Timeout | Self::ConflictExitCode | Self::Job | Self::StateDir)
    }

    fn short(letter: u8) -> Option<Self> {
        Some(match letter {
            b's' => Self::Shared,
            b'x' | b'e' => Self::Exclusive,
            b'u' => Self::Unlock,
            b'n' => Self::Nonblock,
            b'w' => Self::Timeout,
            b'E' => Self::ConflictExitCode,
            b'o' => Self::Close,
            b'F' => Self::NoFork,
            b'h' => Self::Help,
            b'V' => Self::Version,
            _ => return None,
        })
    }
}

/// flock(1)'s, in the order in which it lists those that an abbreviation may mean.
const LONG: [(&str, Switch); 13] = [
    ("shared", Switch::Shared),
    ("exclusive", Switch::Exclusive),
    ("unlock", Switch::Unlock),
    ("nonblocking", Switch::Nonblock),
    ("nb", Switch::Nonblock),
    ("timeout", Switch::Timeout),
    ("wait", Switch::Timeout),
    ("conflict-exit-code", Switch::ConflictExitCode),
    ("close", Switch::Close),
    ("no-fork", Switch::NoFork),
    ("verbose", Switch::Verbose),
    ("help", Switch::Help),
    ("version", Switch::Version),
];

/// triplock's.
const OWN: [(&str, Switch); 3] =
    [("job", Switch::Job), ("state-dir", Switch::StateDir), ("allow-network-fs", Switch::AllowNetworkFs)];

/// The long option that the name means; `given` is all of the word after `--`.
fn long(name: &[u8], given: &[u8]) -> Result<(&'static str, Switch), Failure> {
    if let Some(found) = LONG.iter().chain(&OWN).find(|(long, _)| long.as_bytes() == name) {
        return Ok(*found);
    }
    let candidates = || LONG.iter().filter(|(long, _)| long.as_bytes().starts_with(name));
    let Some(first) = candidates().next() else {
        return Err(Failure::option(&[b"unrecognized option '--", given, b"'"]));
    };
    if candidates().all(|other| other.1 == first.1) {
        return Ok(*first);
    }
    // Another name of the first is not listed.
    let meant = candidates().filter(|other| *other == first || other.1 != first.1);
    let listed: Vec<_> = meant.flat_map(|(long, _)| [" '--", long, "'"]).collect();
    let listed = listed.concat();
    Err(Failure::option(&[b"option '--", given, b"' is ambiguous; possibilities:", listed.as_bytes()]))
}

#[derive(Debug, Default)]
struct Said {
    operation: Option<Operation>,
    nonblock: bool,
    timeout: Option<Seconds>,
    conflict_exit_code: Option<u8>,
    close: bool,
    no_fork: bool,
    verbose: bool,
    job: Option<Name>,
    state: State,
}

impl Said {
    fn long(&mut self, given: &[u8], words: &mut Words) -> Result<Option<Asked>, Failure> {
        let (name, value) = match given.iter().position(|b| *b == b'=') {
            Some(at) => (&given[..at], Some(&given[at + 1..])),
            None => (given, None),
        };
        let (name, switch) = long(name, given)?;
        let value = match (switch.takes_value(), value) {
            (false, None) => OsString::new(),
            (true, Some(value)) => OsStr::from_bytes(value).to_owned(),
            (false, Some(_)) => {
                return Err(Failure::option(&[b"option '--", name.as_bytes(), b"' doesn't allow an argument"]));
            }
            (true, None) => words
                .next()
                .ok_or_else(|| Failure::option(&[b"option '--", name.as_bytes(), b"' requires an argument"]))?,
        };
        self.set(switch, value)
    }

    fn cluster(&mut self, letters: &[u8], words: &mut Words) -> Result<Option<Asked>, Failure> {
        for (at, letter) in letters.iter().enumerate() {
            if *letter == b'?' {
                return Err(Failure::usage(&[]).with_hint());
            }
            let switch = Switch::short(*letter)
                .ok_or_else(|| Failure::option(&[b"invalid option -- '", std::slice::from_ref(letter), b"'"]))?;
            if !switch.takes_value() {
                match self.set(switch, OsString::new())? {
                    None => continue,
                    asked => return Ok(asked),
                }
            }
            let value = match &letters[at + 1..] {
                [] => words.next().ok_or_else(|| {
                    Failure::option(&[b"option requires an argument -- '", std::slice::from_ref(letter), b"'"])
                })?,
                rest => OsStr::from_bytes(rest).to_owned(),
            };
            return self.set(switch, value);
        }
        Ok(None)
    }

    fn set(&mut self, switch: Switch, value: OsString) -> Result<Option<Asked>, Failure> {
        match switch {
            Switch::Shared => self.operation = Some(Operation::Shared),
            Switch::Exclusive => self.operation = Some(Operation::Exclusive),
            Switch::Unlock => self.operation = Some(Operation::Unlock),
            Switch::Nonblock => self.nonblock = true,
            Switch::Timeout => {
                let value = value.as_bytes();
                let seconds = number::seconds(value);
                let wrong = || Failure::usage(&[b"invalid timeout value: '", value, b"'"]);
                self.timeout = Some(seconds.ok_or_else(wrong)?);
            }
            Switch::ConflictExitCode => {
                let code = u8::try_from(whole(b"invalid exit code: '", value.as_bytes())?);
                let wrong = |_| Failure::usage(&[b"exit code out of range (expected 0 to 255)"]);
                self.conflict_exit_code = Some(code.map_err(wrong)?);
            }
            Switch::Close => self.close = true,
            Switch::NoFork => self.no_fork = true,
            Switch::Verbose => self.verbose = true,
            Switch::Help => return Ok(Some(Asked::Help)),
            Switch::Version => return Ok(Some(Asked::Version)),
            Switch::Job => {
                let job = value.to_string_lossy().parse::<Name>();
                self.job = Some(job.map_err(|e| Failure::usage(&[b"--job: ", e.to_string().as_bytes()]))?);
            }
            Switch::StateDir => self.state.dir = Some(value.into()),
            Switch::AllowNetworkFs => self.state.allow_network_fs = true,
        }
        Ok(None)
    }

    /// What the options come to, with the words after them.
    fn request(self, mut words: Vec<OsString>) -> Result<Asked, Failure> {
        if self.no_fork && self.close {
            return Err(Failure::usage(&[b"the --no-fork and --close options are incompatible"]));
        }
        let target = match words.len() {
            0 => return Err(Failure::usage(&[b"requires file descriptor, file or directory"])),
            1 => Target::Descriptor(whole(b"bad file descriptor: '", words[0].as_bytes())?),
            _ => {
                let command = words.split_off(1);
                Target::File { path: words.swap_remove(0), command: command_of(command)? }
            }
        };
        let record = match self.job {
            None => None,
            Some(_) if self.no_fork => {
                return Err(Failure::usage(&[
                    b"the --no-fork and --job options are incompatible: nobody would be left to record the end",
                ]));
            }
            Some(_) if matches!(target, Target::Descriptor(_)) => {
                return Err(Failure::usage(&[b"--job records the run of a command; give a file and a command"]));
            }
            Some(job) => Some(Record { job, state: self.state }),
        };
        let wait = match self.timeout {
            Some(Seconds::Impossible) => Wait::Impossible,
            _ if self.nonblock => Wait::No,
            None => Wait::Forever,
            Some(Seconds::For(wait)) if wait.is_zero() => Wait::No,
            Some(Seconds::For(wait)) => Wait::For(wait),
        };
        Ok(Asked::Lock(Request {
            operation: self.operation.unwrap_or(Operation::Exclusive),
            wait,
            conflict_exit_code: self.conflict_exit_code.unwrap_or(1),
            close: self.close,
            no_fork: self.no_fork,
            verbose: self.verbose,
            target,
            record,
        }))
    }
}

/// The command to run: the words, or the shell with one of them.
fn command_of(mut words: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    if words[0] != "-c" && words[0] != "--command" {
        return Ok(words);
    }
    if words.len() != 2 {
        return Err(Failure::usage(&[words[0].as_bytes(), b" requires exactly one command argument"]));
    }
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    words.splice(..1, [shell.unwrap_or_else(|| "/bin/sh".into()), "-c".into()]);
    Ok(words)
}

/// A whole number; `complaint` begins the message and ends with a quote.
fn whole(complaint: &[u8], text: &[u8]) -> Result<i32, Failure> {
    number::whole(text).map_err(|wrong| match wrong {
        NotWhole::NoNumber => Failure::usage(&[complaint, text, b"'"]),
        NotWhole::TooLarge => Failure::usage(&[complaint, text, b"': Numerical result out of range"]),
    })
}
