//! The first message of a booking: takes the trip's lock, and reads what the decision needs.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{
    client::Client,
    draft::Basis,
    failure::Failure,
    literal::{list, literal},
    record,
    row::{NOW, Row, Unexpected},
    schema::FITS,
    script::{DURABLE, Script},
};
use crate::{
    booking::{Change, Totals},
    lock::Fence,
    name::{Name, RequestId, Student},
    state::{Prepared, REQUEST_IDS_KEPT},
};

/// The columns of a trip's row, as [`totals`] reads them.
pub(super) const TOTALS: &str = "seats, seats_left, bookings, revision, fence, added";

/// The sums in a trip's row.
pub(super) fn totals(row: &Row) -> Result<Totals, Unexpected> {
    Ok(Totals {
        seats: row.get(0)?,
        seats_left: row.get(1)?,
        bookings: row.get(2)?,
        revision: row.get(3)?,
        fence: Fence(row.get(4)?),
        added: row.get_optional(5)?,
    })
}

/// What is asked for.
pub(super) struct Opening<'o> {
    pub(super) trip: &'o Name,
    pub(super) requests: &'o [Prepared],
    pub(super) retry: bool,
    /// For how long to wait for the lock; zero: not at all.
    pub(super) wait: Duration,
}

/// What it came to: the lock is ours.
pub(super) struct Opened {
    pub(super) basis: Basis,
    /// Ids whose answers are too old to be given again. They make room for new ones.
    pub(super) stale: Vec<RequestId>,
}

impl Opening<'_> {
    /// Sends the message. The transaction is open afterwards, also when it fails.
    pub(super) fn send(&self, client: &mut Client) -> Result<Opened, Failure> {
        let trip = literal(self.trip.as_str());
        let mut script = Script::transaction(client, self.wait);
        script.add("SET LOCAL triplock.adds_up = 'yes'");
        if self.requests.iter().any(|request| matches!(request.change, Change::Add { .. })) {
            // The row of a trip that never was, to be locked like any other.
            script.add(format_args!("INSERT INTO triplock.trips (trip) VALUES ({trip}) ON CONFLICT DO NOTHING"));
        }
        let no_wait = if self.wait.is_zero() { " NOWAIT" } else { "" };
        let row =
            script.add(format_args!("SELECT {TOTALS} FROM triplock.trips WHERE trip = {trip} FOR UPDATE{no_wait}"));
        let students: HashSet<_> = self.requests.iter().filter_map(|request| request.change.student()).collect();
        // Of one student it is one more column: a statement less.
        let (alone, several) = match students.iter().collect::<Vec<_>>()[..] {
            [student] => (Some(*student), None),
            _ => (None, Some(students).filter(|students| !students.is_empty())),
        };
        let alone_booked = alone.map_or_else(String::new, |student| {
            let student = literal(student.as_str());
            format!(", (SELECT seats FROM triplock.bookings WHERE trip = {trip} AND student = {student}) AS booked")
        });
        let time = script.add(format_args!("SELECT {NOW}, {FITS}, {DURABLE}{alone_booked}"));
        let booked = several.map(|students| {
            let students = list(students.into_iter().map(Student::as_str));
            script.add(format_args!(
                "SELECT student, seats FROM triplock.bookings WHERE trip = {trip} AND student IN ({students})"
            ))
        });
        let may_be_known = self.requests.iter().filter(|request| request.given || self.retry);
        let ids: HashSet<_> = may_be_known.map(|request| request.id.as_str()).collect();
        let known = (!ids.is_empty()).then(|| {
            let (columns, ids) = (record::READ, list(ids));
            script.add(format_args!("SELECT {columns} FROM triplock.requests WHERE trip = {trip} AND id IN ({ids})"))
        });
        let answers = script.send(client)?;
        let read = || {
            let totals = answers.row(row).map_or(Ok(Totals::NOTHING), totals)?;
            let time = answers.row(time).ok_or("no time")?;
            let now = time.time(0)?;
            let booked = booked.into_iter().flat_map(|place| answers.rows(place));
            let booked = booked.map(|row| Ok((row.get(0)?, row.get(1)?)));
            let mut booked = booked.collect::<Result<HashMap<_, _>, Unexpected>>()?;
            if let Some(student) = alone {
                booked.extend(time.get_optional(3)?.map(|seats| (student.clone(), seats)));
            }
            let known = known.into_iter().flat_map(|place| answers.rows(place));
            let known = known.map(|row| record::decode(self.trip, row)).collect::<Result<HashMap<_, _>, _>>()?;
            let (answered, stale): (HashMap<_, _>, HashMap<_, _>) =
                known.into_iter().partition(|(_, answer)| now - answer.time <= REQUEST_IDS_KEPT);
            let basis = Basis { totals, now, booked, answered };
            Ok(Opened { basis, stale: stale.into_keys().collect() })
        };
        read().map_err(Failure::Changed)
    }
}
