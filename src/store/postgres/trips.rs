//! Trips: a row each, whose row lock is the trip's lock.
//!
//! # Booking, in two round trips
//!
//! 1. The first message ([`Opening`]) begins a transaction, locks the trip's row (`SELECT … FOR UPDATE`; `NOWAIT` for who
//!    does not wait, `lock_timeout` for who waits so long), and then reads what the decision needs: the time, the
//!    students' bookings and the answers to request ids. Each read is a statement of its own: one statement sees one
//!    snapshot, taken before it waited for the lock, so a join would show the bookings as they were before the others'
//!    commits.
//! 2. The rules decide ([`decide_all`]).
//! 3. The second message ([`closing`]) writes and commits. It is compare-and-set on (fence, revision), although the lock
//!    is held: a trigger, a rule or a person may have come in between. `seats_left` is not what the rules say, but what
//!    the database computes from the rows that the same statement inserts; then both are compared. Either comparison that
//!    fails makes a NULL where none may be, which ends the transaction: no statement after it is done, so no `COMMIT`.
//!
//! A refusal that is not recorded writes nothing and rolls back; what it rests on was committed by others, durably.
//!
//! A connection that breaks before the second message is sent has committed nothing. One that breaks after it may have:
//! that is `Uncertain`, and the request id finds out.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::{
    client::Client,
    closing::{closing, confirming},
    draft::decide_all,
    failure::{Failure, changed, failed},
    holder,
    literal::literal,
    opening::{Opened, Opening, TOTALS, totals},
    row::{Row, Unexpected},
    schema::{self, FITS, with_tables_if_any},
    script::Script,
};
use crate::{
    booking::{Roster, Totals},
    error::{Error, Result, ServerTrouble},
    lock::{Acquire, Until},
    name::Name,
    state::{Answer, Prepared},
};

/// How long a lock is waited for at a time: who waits for ever must notice, too, that the server is gone.
pub(super) const SLICE: Duration = Duration::from_secs(60);

/// How often a transaction is tried that the server gives up because it and another one stand in each other's way.
const COLLISIONS: usize = 5;

/// Every so many recorded answers, somebody looks for request ids that are too old; how many are removed then at most.
const PRUNED_EVERY: u64 = 64;
const PRUNED_AT_MOST: u64 = 4 * PRUNED_EVERY;

/// As [`Session::submit`](crate::store::Session::submit).
pub(super) fn submit(
    client: &mut Client,
    trip: &Name,
    requests: &[Prepared],
    retry: bool,
    until: Until,
) -> Result<Acquire<Vec<Result<Answer>>>> {
    let (mut collisions, mut mended) = (0, false);
    loop {
        let opening = Opening { trip, requests, retry, wait: slice_of(until) };
        match opening.send(client) {
            Ok(opened) => return commit(client, trip, opened, requests, retry).map(Acquire::Granted),
            Err(failure) if failure.is(&SqlState::LOCK_NOT_AVAILABLE) => {
                let holder = holder::of_row(client, "trips", "trip", trip)?;
                if is_over(until) {
                    return Ok(Acquire::Held(holder));
                }
            }
            Err(failure) if failure.is_collision() && collisions < COLLISIONS => {
                collisions += 1;
                client.ask("ROLLBACK")?;
            }
            Err(failure) if failure.is_about_schema() && !mended => {
                mended = true;
                schema::mend(client)?;
            }
            Err(failure) => return Err(failure.into_error(client.server())),
        }
    }
}

/// For how long the server waits for a lock before it is asked again; zero: not at all.
pub(super) fn slice_of(until: Until) -> Duration {
    match until {
        Until::Now => Duration::ZERO,
        // Rounded up to what the server counts in, so that the time is over when it says so.
        Until::At(deadline) => {
            (deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1)).min(SLICE)
        }
        Until::Never => SLICE,
    }
}

/// Whether a wait is over.
pub(super) fn is_over(until: Until) -> bool {
    match until {
        Until::Now => true,
        Until::At(deadline) => deadline <= Instant::now(),
        Until::Never => false,
    }
}

fn commit(
    client: &mut Client,
    trip: &Name,
    opened: Opened,
    requests: &[Prepared],
    retry: bool,
) -> Result<Vec<Result<Answer>>> {
    let Opened { basis, stale } = opened;
    let before = basis.totals;
    let drafted = decide_all(trip, basis, requests, retry)?;
    let message = if !drafted.recorded.is_empty() {
        closing(trip, &before, &drafted, &stale)
    } else if drafted.replayed {
        confirming(trip)
    } else {
        // When that fails, the next call will tell.
        let _ = client.script("ROLLBACK", Duration::ZERO);
        return Ok(drafted.answers);
    };
    client.take_warning();
    let uncertain = |why: String| Error::Uncertain {
        request_id: if let [request] = requests { Some(request.id.clone()) } else { None },
        why,
    };
    match message.send(client) {
        Ok(_) => {}
        Err(Failure::Lost(why)) => return Err(uncertain(format!("{}: {why}", client.server()))),
        Err(failure) if failure.is(&SqlState::NOT_NULL_VIOLATION) => {
            let why = format!(
                "trip {trip} was changed by somebody who does not hold its lock, or its sums are wrong; nothing was \
                 committed; look for triggers and rules on the tables of the schema triplock"
            );
            return Err(failed(client.server(), ServerTrouble::Damaged, &why));
        }
        Err(failure) => return Err(failure.into_error(client.server())),
    }
    if let Some(warning) = client.take_warning() {
        return Err(uncertain(format!("{}: committed, but no replica may have it: {warning}", client.server())));
    }
    if before.revision / PRUNED_EVERY != drafted.totals.revision / PRUNED_EVERY {
        prune(client);
    }
    Ok(drafted.answers)
}

/// Removes some of the request ids that are too old, of whichever trip. (An answer is too old after 30 days; by then
/// nobody counts on it, and a day more does no harm.) `now()` will do, and lets an index be used.
fn prune(client: &mut Client) {
    let mut script = Script::new();
    script.add(format_args!(
        "DELETE FROM triplock.requests WHERE (trip, id) IN (SELECT trip, id FROM triplock.requests \
         WHERE time < now() - interval '31 days' ORDER BY time LIMIT {PRUNED_AT_MOST} FOR UPDATE SKIP LOCKED)"
    ));
    // The next one tries again.
    let _ = script.send(client);
}

/// As [`Session::trip`](crate::store::Session::trip).
pub(super) fn trip(client: &mut Client, trip: &Name) -> Result<Option<Totals>> {
    let filter = format!("trip = {}", literal(trip.as_str()));
    Ok(list(client, &filter)?.pop().map(|(_, totals)| totals))
}

/// As [`Session::trips`](crate::store::Session::trips).
pub(super) fn trips(client: &mut Client) -> Result<Vec<(Name, Totals)>> {
    list(client, "true")
}

fn list(client: &mut Client, filter: &str) -> Result<Vec<(Name, Totals)>> {
    let mut script = Script::new();
    let place = script.add(format_args!(
        "SELECT {TOTALS}, trip, {FITS} FROM triplock.trips WHERE added IS NOT NULL AND {filter} ORDER BY trip"
    ));
    let answers = with_tables_if_any(client, |client| script.send(client).map(Some))?;
    let rows = answers.iter().flat_map(|answers| answers.rows(place));
    let trip = |row: &Row| Ok((row.get(6)?, totals(row)?));
    rows.map(trip).collect::<Result<_, Unexpected>>().map_err(|why| changed(client.server(), &why))
}

/// As [`Session::roster`](crate::store::Session::roster): one statement, so one moment.
pub(super) fn roster(client: &mut Client, trip: &Name) -> Result<Option<Roster>> {
    let mut script = Script::new();
    let place = script.add(format_args!(
        "SELECT t.seats, seats_left, bookings, revision, fence, added, student, b.seats, {FITS} \
         FROM triplock.trips t LEFT JOIN triplock.bookings b USING (trip) WHERE added IS NOT NULL AND trip = {}",
        literal(trip.as_str())
    ));
    let Some(answers) = with_tables_if_any(client, |client| script.send(client).map(Some))? else { return Ok(None) };
    let read = || {
        let Some(first) = answers.row(place) else { return Ok(None) };
        let booked = answers.rows(place).iter().filter(|row| row.optional(6).is_some());
        let booked = booked.map(|row| Ok((row.get(6)?, row.get(7)?))).collect::<Result<Vec<_>, Unexpected>>()?;
        Roster::of(totals(first)?, booked).map(Some).map_err(|why| format!("trip {trip}: {why}:"))
    };
    read().map_err(|why| changed(client.server(), &why))
}
