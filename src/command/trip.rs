//! `trip`, `book` and `cancel`: one change of one trip, or a look at it.

use std::{
    fmt,
    io::{self, Write as _},
};

use serde::Serialize;

use super::{answered, busy, lower, make_trips, place, trips, written};
use crate::{
    booking::{Change, Event, Refusal},
    cli::{Global, Request},
    error::Error,
    exit::ExitCode,
    lock::Acquire,
    name::{Name, Student},
    output::{Output, report},
    state::{Answer, TripView},
};

/// Asks for one change, prints the answer, and tidies up once it is out.
pub(super) fn change(
    output: &Output,
    global: &Global,
    trip: &Name,
    change: Change,
    request: Request,
) -> anyhow::Result<ExitCode> {
    let store = match change {
        Change::Add { .. } => Some(make_trips(output, global)?),
        _ => trips(output, global)?,
    };
    let store = store.ok_or_else(|| Error::NoSuchTrip(trip.clone()))?;
    let (request, wait) = lower(change, request);
    let answer = match store.submit(trip, &request, wait)? {
        Acquire::Granted(answer) => answer,
        Acquire::Held(holder) => return Ok(busy(output, trip, holder.as_ref())),
    };
    let code = exit_code(&answer);
    let mut line = Vec::with_capacity(256);
    if output.json || answer.refusal().is_none() {
        output.result(&mut line, &answer, || Sentence(&answer))?;
    } else {
        output.message(&Sentence(&answer).to_string());
    }
    // One write, so that answers of many processes into one file stay whole lines.
    let printed = io::stdout().write_all(&line).and_then(|()| io::stdout().flush());
    store.tidy();
    Ok(answered(printed, code, answer.request_id.as_ref())?)
}

/// `trip list`: those that can be read, and what is wrong with the others.
pub(super) fn list(output: &Output, global: &Global) -> anyhow::Result<ExitCode> {
    let trips = match trips(output, global)? {
        Some(store) => store.list()?,
        None => Vec::new(),
    };
    if trips.is_empty() {
        output.message(&format!("no trips in {}", place(global)?));
    }
    let mut to = io::BufWriter::new(io::stdout().lock());
    let mut code = ExitCode::Success;
    let mut print = |trip| match trip {
        Ok(trip) => output.result(&mut to, &trip, || overview(&trip)),
        Err(e) => {
            code = report(output, &anyhow::Error::from(e), || None);
            Ok(())
        }
    };
    let printed = trips.into_iter().try_for_each(&mut print);
    Ok(written(printed.and_then(|()| to.flush()), code)?)
}

/// `trip show`.
pub(super) fn show(output: &Output, global: &Global, trip: &Name, bookings: bool) -> anyhow::Result<ExitCode> {
    let store = trips(output, global)?.ok_or_else(|| Error::NoSuchTrip(trip.clone()))?;
    let mut to = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> crate::Result<io::Result<()>> {
        if !bookings {
            let view = store.show(trip)?;
            return Ok(output.result(&mut to, &view, || overview(&view)));
        }
        let roster = store.roster(trip)?;
        let view = TripView { trip: trip.clone(), totals: *roster.totals() };
        let head = output.result(&mut to, &view, || overview(&view));
        Ok(head.and_then(|()| {
            roster.bookings().try_for_each(|(student, seats)| {
                let booking = Booking { trip, student, seats };
                output.result(&mut to, &booking, || format!("  student {student}: {}", Seats(seats)))
            })
        }))
    };
    let printed = print()?;
    Ok(written(printed.and_then(|()| to.flush()), ExitCode::Success)?)
}

/// A booking as `trip show --bookings --json` prints it.
#[derive(Serialize)]
struct Booking<'b> {
    trip: &'b Name,
    student: &'b Student,
    seats: u32,
}

/// The exit code of an answer.
pub(super) fn exit_code(answer: &Answer) -> ExitCode {
    match answer.refusal() {
        None => ExitCode::Success,
        Some(Refusal::SoldOut) => ExitCode::SoldOut,
        Some(_) => ExitCode::Refused,
    }
}

/// An answer for people.
pub(super) struct Sentence<'a>(pub(super) &'a Answer);

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answer { trip, seats_left, .. } = self.0;
        f.write_str("trip ")?;
        f.write_str(trip.as_str())?;
        f.write_str(": ")?;
        match &self.0.event {
            Event::Added { seats } => write!(f, "added with {}", Seats(*seats)),
            Event::Booked { student, seats } => {
                write!(f, "booked {} for student {student}, {seats_left} left", Seats(*seats))
            }
            Event::Cancelled { student, seats } => {
                write!(f, "cancelled {} of student {student}, {seats_left} left", Seats(*seats))
            }
            Event::Resized { seats } => write!(f, "resized to {}, {seats_left} left", Seats(*seats)),
            Event::Removed => f.write_str("removed"),
            Event::Batch { count } => write!(f, "a batch of {count}"),
            Event::Refused { change, refusal } => reason(f, change, *refusal, *seats_left),
        }?;
        f.write_str(if self.0.replayed { " (answered before)" } else { "" })
    }
}

fn reason(f: &mut fmt::Formatter<'_>, change: &Change, refusal: Refusal, seats_left: u32) -> fmt::Result {
    let student = change.student().map_or("", |student| student.as_str());
    match refusal {
        Refusal::SoldOut if seats_left == 0 => write!(f, "sold out: no seat left for student {student}"),
        Refusal::SoldOut => {
            let wanted = Seats(change.seats().unwrap_or_default());
            write!(f, "sold out: student {student} wants {wanted}, {seats_left} left")
        }
        Refusal::AlreadyBooked { booked } => write!(f, "student {student} has booked already: {}", Seats(booked)),
        Refusal::NoBooking => write!(f, "student {student} has no booking to cancel"),
        Refusal::TripExists => f.write_str("exists already; `trip resize` changes its seats"),
        Refusal::BelowBooked { booked } => write!(f, "{} booked: cannot resize below that", Seats(booked)),
        Refusal::RequestIdReused => f.write_str("that request id was used for another request; choose a new one"),
    }
}

fn overview(view: &TripView) -> String {
    let totals = &view.totals;
    let bookings = if totals.bookings == 1 { "booking" } else { "bookings" };
    format!("trip {}: {} of {} left, {} {bookings}", view.trip, totals.seats_left, Seats(totals.seats), totals.bookings)
}

/// "1 seat", "2 seats".
struct Seats(u32);

impl fmt::Display for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} seat{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}
