//! The answers of booking commands.

use serde::Deserialize;

/// What a booking command says on stdout.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Answer {
    pub(crate) format: u64,
    pub(crate) outcome: String,
    pub(crate) trip: String,
    pub(crate) student: Option<String>,
    pub(crate) seats: Option<u64>,
    pub(crate) seats_left: Option<u64>,
    pub(crate) revision: Option<u64>,
    pub(crate) fence: Option<u64>,
    pub(crate) request_id: Option<String>,
    pub(crate) time: Option<String>,
    #[serde(default)]
    pub(crate) replayed: bool,
}

impl Answer {
    /// Fails unless the other is this one, given once more.
    #[track_caller]
    pub(crate) fn is_replayed_by(&self, again: &Self) {
        assert_eq!(Self { replayed: true, ..self.clone() }, *again, "a retry got another answer");
    }
}
