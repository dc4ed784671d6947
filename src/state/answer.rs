//! What a request came to.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::line::Line;
use crate::{
    booking::{Event, Refusal, Totals},
    clock::rfc3339,
    lock::Fence,
    name::{Name, RequestId},
};

/// An answer, success or refusal. When it is given, everything that it rests on is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of which trip.
    pub trip: Name,
    /// What happened.
    pub event: Event,
    /// The ledger line that says so; a refusal without a request id leaves none.
    pub revision: Option<u64>,
    /// The fence under which it was decided.
    pub fence: Fence,
    /// When it was decided.
    pub time: DateTime<Utc>,
    /// Seats left afterwards.
    pub seats_left: u32,
    /// The id under which a retry finds this answer.
    pub request_id: Option<RequestId>,
    /// This is the first answer to that id, given again.
    pub replayed: bool,
}

impl Answer {
    pub(super) fn of_line(trip: &Name, line: Line, replayed: bool) -> Self {
        Self {
            trip: trip.clone(),
            event: line.event,
            revision: Some(line.revision),
            fence: line.fence,
            time: line.time,
            seats_left: line.seats_left,
            request_id: line.request_id,
            replayed,
        }
    }

    /// Why it was refused, if it was.
    pub fn refusal(&self) -> Option<Refusal> {
        match &self.event {
            Event::Refused { refusal, .. } => Some(*refusal),
            _ => None,
        }
    }

    /// The word for it in JSON: what happened, or why it did not.
    pub fn outcome(&self) -> &'static str {
        self.refusal().map_or_else(|| self.event.word(), Refusal::word)
    }
}

/// The JSON contract of an answer (docs/json.md).
impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("outcome", self.outcome())?;
        map.serialize_entry("trip", &self.trip)?;
        let (student, seats) = match &self.event {
            Event::Added { seats } | Event::Resized { seats } => (None, Some(*seats)),
            Event::Booked { student, seats } | Event::Cancelled { student, seats } => (Some(student), Some(*seats)),
            Event::Refused { change, .. } => (change.student(), change.seats()),
            Event::Removed | Event::Batch { .. } => (None, None),
        };
        if let Event::Refused { change, .. } = &self.event {
            map.serialize_entry("change", change.word())?;
        }
        if let Some(student) = student {
            map.serialize_entry("student", student)?;
        }
        if let Some(seats) = seats {
            map.serialize_entry("seats", &seats)?;
        }
        if let Some(booked) = self.refusal().and_then(Refusal::booked) {
            map.serialize_entry("booked", &booked)?;
        }
        map.serialize_entry("seats_left", &self.seats_left)?;
        map.serialize_entry("revision", &self.revision)?;
        map.serialize_entry("fence", &self.fence)?;
        map.serialize_entry("time", &rfc3339(self.time))?;
        map.serialize_entry("request_id", &self.request_id)?;
        map.serialize_entry("replayed", &self.replayed)?;
        map.end()
    }
}

/// A trip as its state file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TripView {
    /// Its name.
    pub trip: Name,
    /// Its sums.
    #[serde(flatten)]
    pub totals: Totals,
}
