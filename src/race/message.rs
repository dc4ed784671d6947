//! What a student tells the one who runs the race: over a channel from a thread, as JSON Lines from a process.

use serde::{Deserialize, Serialize};

use super::{moment::Moment, what::What};

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
