//! What was found, and how it is counted.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    exit::ExitCode,
};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What is wrong.
    pub(crate) problems: Vec<Problem>,
    /// What is unusual and harmless.
    pub(crate) notes: Vec<String>,
    /// The store, if it is a server.
    pub(crate) looked_at_store: Option<super::Looked>,
    pub(crate) looked_at: LookedAt,
}

/// Something that is wrong.
#[derive(Debug, Clone)]
pub(crate) enum Problem {
    /// What a command that met it would say.
    Error(Error),
    /// What no command would say, since each sees only its own side.
    Trouble(Trouble),
}

/// What keeps the parts of this machine from meeting at the same lock.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    /// A stable word.
    pub(crate) word: &'static str,
    /// What, where, and what to do.
    pub(crate) message: String,
    pub(crate) details: Map<String, Value>,
}

/// How much was looked at.
#[derive(Debug, Default, Serialize)]
pub(crate) struct LookedAt {
    /// Job files that could be read.
    pub(crate) job_files: usize,
    /// Jobs that they define, those with mistakes left out.
    pub(crate) defined_jobs: usize,
    /// Command lines of crontabs and units that start triplock.
    pub(crate) scheduled: usize,
    /// Jobs that have run.
    pub(crate) ledgers: usize,
    pub(crate) trips: usize,
    pub(crate) state_dir: Option<PathBuf>,
}

impl Findings {
    /// Corrupt state is worse than anything else that is wrong.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let corrupt = |problem: &Problem| matches!(problem, Problem::Error(e) if e.exit_code() == ExitCode::Corrupt);
        match &self.problems[..] {
            [] => ExitCode::Success,
            problems if problems.iter().any(corrupt) => ExitCode::Corrupt,
            _ => ExitCode::Configuration,
        }
    }

    /// The value, or `None` with the problem kept.
    pub(super) fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.problem(error)).ok()
    }

    pub(super) fn problem(&mut self, problem: impl Into<Problem>) {
        self.problems.push(problem.into());
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }
}

impl Trouble {
    pub(super) fn new(word: &'static str, message: String) -> Self {
        Self { word, message, details: Map::new() }
    }

    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    pub(super) fn path(self, path: &Path) -> Self {
        self.with("path", path.to_string_lossy())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<crate::config::Problem> for Problem {
    fn from(problem: crate::config::Problem) -> Self {
        Self::Error(problem.into_error())
    }
}

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Trouble(trouble) => f.write_str(&trouble.message),
        }
    }
}
