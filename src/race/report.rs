//! What came of a race.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use super::{
    LockKind, Place, Promise, Race, Verdict, gathering::Heard, line, moment::Moment, tracker::BookingLine, what::What,
};
use crate::clock::rfc3339;

/// A race that was run.
#[derive(Debug, Clone)]
pub struct Report {
    /// With which lock.
    pub lock: LockKind,
    /// As what.
    pub place: Place,
    /// How many seats there were.
    pub seats: u32,
    /// When the gate opened.
    pub started: DateTime<Utc>,
    /// What each student saw, in the order in which it happened.
    pub events: Vec<Event>,
    /// What the tracker says at the end; below zero when more was sold than there was.
    pub seats_left: i64,
    /// Every booking, in the order of the list.
    pub bookings: Vec<Booking>,
    /// How it had to come out.
    pub promise: Promise,
}

/// What a student saw, and when.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// Since the gate opened.
    pub after: Duration,
    /// Which student, from 1.
    pub student: u32,
    /// What.
    pub what: What,
}

/// One seat for one student.
#[derive(Debug, Clone, Copy)]
pub struct Booking {
    /// Since the gate opened.
    pub after: Duration,
    /// Whose, from 1.
    pub student: u32,
}

/// The raw material of a report.
pub(super) struct Run {
    pub(super) start: Moment,
    pub(super) started: DateTime<Utc>,
    pub(super) heard: Vec<Heard>,
    pub(super) seats_left: i64,
    pub(super) bookings: Vec<BookingLine>,
}

impl Report {
    pub(super) fn of(race: &Race, lock: LockKind, place: Place, mut run: Run) -> Self {
        match place {
            Place::Hosts => line::number_each_alone(&mut run.heard),
            Place::Threads | Place::Processes => line::number(&mut run.heard),
        }
        let event = |heard: Heard| Event { after: heard.at.since(run.start), student: heard.student, what: heard.what };
        let booking = |line: BookingLine| Booking { after: line.at.since(run.start), student: line.student };
        Self {
            lock,
            place,
            seats: race.seats,
            started: run.started,
            events: run.heard.into_iter().map(event).collect(),
            seats_left: run.seats_left,
            bookings: run.bookings.into_iter().map(booking).collect(),
            promise: race.promise(lock, place),
        }
    }

    /// How it came out.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(self.seats, self.seats_left, self.bookings.len())
    }

    /// Whether everybody was served in the order in which they came; `None` when they stood in no common line.
    pub fn in_order(&self) -> Option<bool> {
        if self.lock.holds_in(self.place) { line::was_kept(&self.events) } else { None }
    }

    /// Whether it was safe, and nobody overtook where there was a line.
    pub fn is_right(&self) -> bool {
        self.verdict() == Verdict::Safe && self.in_order() != Some(false)
    }

    /// Whether it came out as its lock promises.
    pub fn as_promised(&self) -> bool {
        self.promise.is_kept_by(self.verdict()) && self.in_order() != Some(false)
    }
}

/// As docs/json.md describes it.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Row<'a> {
            lock: &'a str,
            r#in: &'a str,
            started: String,
            seats: u32,
            seats_left: i64,
            bookings: Vec<Entry<()>>,
            verdict: Verdict,
            promise: Promise,
            in_order: Option<bool>,
            as_promised: bool,
            events: Vec<Entry<What>>,
        }
        #[derive(Serialize)]
        struct Entry<T> {
            time: String,
            ms: f64,
            student: u32,
            #[serde(flatten)]
            more: T,
        }
        fn entry<T>(started: DateTime<Utc>, after: Duration, student: u32, more: T) -> Entry<T> {
            let ms = (after.as_secs_f64() * 1e6).round() / 1e3;
            Entry { time: rfc3339(started + after), ms, student, more }
        }
        let row = Row {
            lock: self.lock.word(),
            r#in: self.place.word(),
            started: rfc3339(self.started),
            seats: self.seats,
            seats_left: self.seats_left,
            bookings: self.bookings.iter().map(|b| entry(self.started, b.after, b.student, ())).collect(),
            verdict: self.verdict(),
            promise: self.promise,
            in_order: self.in_order(),
            as_promised: self.as_promised(),
            events: self.events.iter().map(|e| entry(self.started, e.after, e.student, e.what)).collect(),
        };
        row.serialize(to)
    }
}
