//! Why a race did not come to its end.

use std::fmt;

use crate::error::Error;

/// A race that gave no result. (An unsafe result is a result: see [`Verdict`](super::Verdict).)
#[derive(Debug)]
#[non_exhaustive]
pub enum RaceError {
    /// The race could not be set up, or its result could not be read.
    Setup(Error),
    /// A student failed, so the result says nothing about the lock.
    Student {
        /// Which, from 1.
        student: u32,
        /// What happened to it.
        why: String,
    },
    /// A signal asked to end the race.
    Interrupted,
}

impl RaceError {
    /// The failure of the student at that place in the row, from 0.
    pub(super) fn student(place: usize, why: String) -> Self {
        Self::Student { student: u32::try_from(place + 1).unwrap_or(u32::MAX), why }
    }
}

impl From<Error> for RaceError {
    fn from(error: Error) -> Self {
        Self::Setup(error)
    }
}

impl fmt::Display for RaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(error) => error.fmt(f),
            Self::Student { student, why } => {
                write!(f, "student {student} failed: {why}; the race was called off and proves nothing: run it again")
            }
            Self::Interrupted => f.write_str("interrupted by a signal; the race was called off"),
        }
    }
}

impl std::error::Error for RaceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Setup(error) => std::error::Error::source(error),
            Self::Student { .. } | Self::Interrupted => None,
        }
    }
}
