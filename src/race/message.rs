//! What a student tells the one who runs the race: over a channel from a thread, as JSON Lines from a process.

use serde::{Deserialize, Serialize};

use super::student::What;

/// One message. As JSON it is one line far shorter than `PIPE_BUF`, so students can share one pipe and no line is
/// ever torn or mixed with another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// At the gate.
    Ready { student: u32 },
    /// Something happened.
    Saw { student: u32, at: Moment, what: What },
    /// The student cannot go on.
    Failed { student: u32, why: String },
    /// The student is done.
    Done { student: u32 },
}

impl Message {
    /// As a process sends it: a line with its end.
    pub(super) fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a message is plain data");
        line.push(b'\n');
        line
    }

    /// As it is received; `None` when it is no student's.
    pub(super) fn from_line(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    /// A failure, cut to a length that keeps the line short.
    pub(super) fn failed(student: u32, why: &impl ToString) -> Self {
        Self::Failed { student, why: why.to_string().chars().take(500).collect() }
    }
}

/// A moment on the machine's monotonic clock, in nanoseconds: the same clock for all processes, so their moments
/// can be put in order, and nobody sets it back during a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        // The clock counts from boot, never below zero.
        let part = |n: i64| u64::try_from(n).unwrap_or(0);
        Self(part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec))
    }

    pub(super) fn since(self, start: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(start.0))
    }
}
