//! A recorded answer as a row of `triplock.requests`.

use super::{
    literal::{literal, number, optional},
    row::{Row, Unexpected},
};
use crate::{
    booking::{Change, Event, Refusal},
    clock::rfc3339,
    lock::Fence,
    name::{Name, RequestId, Student},
    state::Answer,
};

/// The columns besides the trip, as [`values`] gives them.
pub(super) const WRITTEN: &str =
    "id, revision, fence, time, seats_left, event, change, student, seats, refusal, booked";

/// The columns, as [`decode`] takes them.
pub(super) const READ: &str = "id, revision, fence, (extract(epoch FROM time) * 1000000)::bigint AS time, seats_left, \
     event, change, student, seats, refusal, booked";

/// The values of a row besides the trip.
pub(super) fn values(answer: &Answer) -> String {
    let (student, seats, change) = match &answer.event {
        Event::Added { seats } | Event::Resized { seats } => (None, Some(*seats), None),
        Event::Booked { student, seats } | Event::Cancelled { student, seats } => (Some(student), Some(*seats), None),
        Event::Refused { change, .. } => (change.student(), change.seats(), Some(change.word())),
        Event::Removed | Event::Batch { .. } => (None, None, None),
    };
    let refusal = answer.refusal();
    format!(
        "{},{},{},{},{},{},{},{},{},{},{}",
        optional(answer.request_id.as_ref().map(RequestId::as_str)),
        number(answer.revision),
        answer.fence,
        literal(rfc3339(answer.time)),
        answer.seats_left,
        literal(answer.event.word()),
        optional(change),
        optional(student.map(Student::as_str)),
        number(seats),
        optional(refusal.map(Refusal::word)),
        number(refusal.and_then(Refusal::booked)),
    )
}

/// The answer in a row, and its id.
pub(super) fn decode(trip: &Name, row: &Row) -> Result<(RequestId, Answer), Unexpected> {
    let id: RequestId = row.get(0)?;
    let seats = || row.get(8);
    let student = || row.get(7);
    let event = match row.text(5)? {
        "added" => Event::Added { seats: seats()? },
        "booked" => Event::Booked { student: student()?, seats: seats()? },
        "cancelled" => Event::Cancelled { student: student()?, seats: seats()? },
        "resized" => Event::Resized { seats: seats()? },
        "removed" => Event::Removed,
        "refused" => {
            let change = match row.text(6)? {
                "add" => Change::Add { seats: seats()? },
                "book" => Change::Book { student: student()?, seats: seats()? },
                "cancel" => Change::Cancel { student: student()? },
                "resize" => Change::Resize { seats: seats()? },
                "remove" => Change::Remove,
                other => return Err(format!("change is {other:?}")),
            };
            let refusal = Refusal::from_word(row.text(9)?, row.get_optional(10)?);
            Event::Refused { change, refusal: refusal.ok_or_else(|| "refusal is unknown".to_owned())? }
        }
        other => return Err(format!("event is {other:?}")),
    };
    let answer = Answer {
        trip: trip.clone(),
        event,
        revision: Some(row.get(1)?),
        fence: Fence(row.get(2)?),
        time: row.time(3)?,
        seats_left: row.get(4)?,
        request_id: Some(id.clone()),
        replayed: false,
    };
    Ok((id, answer))
}
