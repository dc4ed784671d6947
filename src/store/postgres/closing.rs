//! The second message of a booking: writes what was decided, and commits it.

use std::fmt::Write as _;

use super::{
    draft::Drafted,
    literal::{list, literal, number},
    record,
    script::Script,
};
use crate::{
    booking::Totals,
    name::{Name, RequestId, Student},
};

/// The message. `before`: the sums that the decision started from; `stale`: ids that make room.
pub(super) fn closing(trip: &Name, before: &Totals, drafted: &Drafted, stale: &[RequestId]) -> Script {
    let trip = literal(trip.as_str());
    let Totals { revision, fence, .. } = before;
    let unchanged = format!("trip = {trip} AND revision = {revision} AND fence = {fence}");
    let mut script = Script::new();
    if !stale.is_empty() {
        let ids = list(stale.iter().map(RequestId::as_str));
        script.add(format_args!("DELETE FROM triplock.requests WHERE trip = {trip} AND id IN ({ids})"));
    }
    if drafted.wiped || !drafted.gone.is_empty() {
        // By itself: a student who is among the gone may be among the new.
        let whose = if drafted.wiped {
            String::new()
        } else {
            format!(" AND student IN ({})", list(drafted.gone.iter().map(Student::as_str)))
        };
        script.add(format_args!(
            "WITH gone AS (DELETE FROM triplock.bookings WHERE trip = {trip}{whose} RETURNING seats) \
             UPDATE triplock.trips SET seats_left = seats_left + (SELECT coalesce(sum(seats), 0) FROM gone), \
             bookings = bookings - (SELECT count(*) FROM gone) WHERE {unchanged}"
        ));
    }
    let after = &drafted.totals;
    let mut with_booked = String::new();
    // What is taken is what was inserted, not what was meant to be.
    let taken = match &drafted.booked[..] {
        [] => "",
        [_] => " - (SELECT seats FROM booked)",
        _ => " - (SELECT sum(seats) FROM booked)",
    };
    for (student, seats) in &drafted.booked {
        let before = if with_booked.is_empty() {
            "booked AS (INSERT INTO triplock.bookings (trip, student, seats) VALUES "
        } else {
            ","
        };
        let _ = write!(with_booked, "{before}({trip},{},{seats})", literal(student.as_str()));
    }
    if !with_booked.is_empty() {
        with_booked.push_str(" RETURNING seats), ");
    }
    // Columns that stay as they are are left out: each costs the server some of its time.
    let mut changed = String::new();
    if after.seats == before.seats {
        let _ = write!(changed, "seats_left = seats_left{taken}");
    } else {
        let seats = after.seats;
        let _ = write!(changed, "seats = {seats}, seats_left = {seats} - (seats - seats_left){taken}");
    }
    if after.added != before.added {
        let _ = write!(changed, ", added = {}", number(after.added));
    }
    if !drafted.booked.is_empty() {
        let _ = write!(changed, ", bookings = bookings + {}", drafted.booked.len());
    }
    // The first row's trip is NULL unless exactly what was decided has been done.
    let mut recorded = String::new();
    for answer in &drafted.recorded {
        let trip = if recorded.is_empty() {
            format!(
                "((SELECT trip FROM moved WHERE seats_left = {} AND bookings = {})",
                after.seats_left, after.bookings
            )
        } else {
            format!(",({trip}")
        };
        let _ = write!(recorded, "{trip},{})", record::values(answer));
    }
    let columns = record::WRITTEN;
    let Totals { revision, fence, .. } = after;
    script.add(format_args!(
        "WITH {with_booked}moved AS (UPDATE triplock.trips SET {changed}, revision = {revision}, fence = {fence} \
         WHERE {unchanged} RETURNING trip, seats_left, bookings) \
         INSERT INTO triplock.requests (trip, {columns}) VALUES {recorded}"
    ));
    script.add("COMMIT");
    script
}

/// The message when everything was answered before: nothing is new, and it is committed all the same. That first answer may
/// have been uncertain, because no replica had confirmed it; with a commit that comes after it, both are.
pub(super) fn confirming(trip: &Name) -> Script {
    let mut script = Script::new();
    script.add(format_args!("UPDATE triplock.trips SET fence = fence WHERE trip = {}", literal(trip.as_str())));
    script.add("COMMIT");
    script
}
