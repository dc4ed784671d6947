//! A parsed file, and where in it what is wrong.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::nearest;
use crate::error::Error;

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) path: PathBuf,
    /// From 1; 0 when it is about the whole file.
    pub(crate) line: usize,
    /// What is wrong, and what to do.
    pub(crate) why: String,
    /// The job whose table it is in.
    pub(crate) job: Option<String>,
}

impl Problem {
    pub(crate) fn of_file(path: &Path, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: 0, why: why.into(), job: None }
    }

    /// The same as what ends a command. (No `From`: a second way to make an error would leave `?` to guess.)
    pub(crate) fn into_error(self) -> Error {
        let Self { path, line, why, .. } = self;
        Error::BadConfiguration { path, line, why }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clone().into_error().fmt(f)
    }
}

/// Where in the text something stands.
type Spot = Range<usize>;

/// A file while it is read: its text, and what was found wrong so far.
#[derive(Debug)]
pub(crate) struct Document<'t> {
    path: &'t Path,
    text: &'t str,
    problems: Vec<Problem>,
    /// The job whose table is being understood: its problems are no other job's.
    pub(crate) job: Option<String>,
}

impl<'t> Document<'t> {
    /// Parses the text; as much of it as can be understood.
    pub(crate) fn parse(path: &'t Path, text: &'t str) -> (Self, Spanned<DeTable<'t>>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut document = Self { path, text, problems: Vec::new(), job: None };
        for error in errors {
            // One line, whatever the parser thinks of it.
            let why = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            document.problem(error.span().unwrap_or_default(), format!("not TOML: {why}"));
        }
        (document, table)
    }

    pub(crate) fn problem(&mut self, spot: Spot, why: impl Into<String>) {
        let line = self.line(spot.start);
        self.problems.push(Problem { path: self.path.to_owned(), line, why: why.into(), job: self.job.clone() });
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, byte: usize) -> usize {
        1 + memchr::memchr_iter(b'\n', self.text.as_bytes().get(..byte).unwrap_or_default()).count()
    }

    /// A key that means nothing here; `inside` says where, for people.
    pub(crate) fn unknown(&mut self, key: &Spanned<impl AsRef<str>>, inside: &str, known: &[&'static str]) {
        let given = key.get_ref().as_ref();
        let shown: String = given.chars().take(40).collect();
        let why = match nearest(given, known.iter().copied()) {
            Some(meant) => format!("{inside}unknown key {shown:?}; did you mean {meant}?"),
            None => format!("{inside}unknown key {shown:?}; known are {}", known.join(", ")),
        };
        self.problem(key.span(), why);
    }

    /// The table that a value must be.
    pub(crate) fn table<'v>(&mut self, what: &str, value: &'v Spanned<DeValue<'t>>) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.problem(value.span(), format!("{what} is not a table; write [{what}] on a line of its own"));
        }
        table
    }

    /// What is wrong, in the order of the lines.
    pub(crate) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line);
        self.problems
    }

    pub(crate) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }
}
