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
    name::{Name, RequestId},
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
        let whose = match drafted.wiped {
            true => String::new(),
            false => format!(" AND student IN ({})", list(drafted.gone.iter().map(|student| student.as_str()))),
        };
        script.add(format_args!(
            "WITH gone AS (DELETE FROM triplock.bookings WHERE trip = {trip}{whose} RETURNING seats) \
             UPDATE triplock.trips SET seats_left = seats_left + (SELECT coalesce(sum(seats), 0) FROM gone), \
             bookings = bookings - (SELECT count(*) FROM gone) WHERE {unchanged}"
        ));
    }
    let after = &drafted.totals;
    let (with_booked, taken, more) = match &drafted.booked[..] {
        [] => (String::new(), "", ""),
        booked => {
            let mut rows = String::new();
            for (student, seats) in booked {
                let comma = if rows.is_empty() { "" } else { "," };
                let _ = write!(rows, "{comma}({trip},{},{seats})", literal(student.as_str()));
            }
            (
                format!(
                    "booked AS (INSERT INTO triplock.bookings (trip, student, seats) VALUES {rows} RETURNING seats), "
                ),
                " - (SELECT sum(seats) FROM booked)",
                " + (SELECT count(*) FROM booked)",
            )
        }
    };
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
    let Totals { seats, revision, fence, .. } = after;
    let added = number(after.added);
    script.add(format_args!(
        "WITH {with_booked}moved AS (UPDATE triplock.trips SET seats = {seats}, \
         seats_left = {seats} - (seats - seats_left){taken}, bookings = bookings{more}, \
         revision = {revision}, fence = {fence}, added = {added} \
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
