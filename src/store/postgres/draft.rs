//! Deciding requests for a trip on a server, one after another, each in the light of those before. Pure: no I/O.
//!
//! What state/draft.rs is to a ledger, with the same answers: ids of the caller's are looked up first; a refusal is
//! recorded only under such an id; an id that was used for something else is refused, and that is not recorded.

use std::collections::HashMap;

use chrono::{DateTime, SubsecRound as _, Utc};

use crate::{
    booking::{Change, Event, Refusal, Totals, decide},
    error::{Error, Result},
    lock::Fence,
    name::{Name, RequestId, Student},
    state::{Answer, Prepared, REQUEST_IDS_KEPT},
};

/// What the server says before anything is decided, under the trip's lock.
#[derive(Debug)]
pub(super) struct Basis {
    /// [`Totals::NOTHING`] when the trip never was.
    pub(super) totals: Totals,
    /// The server's time.
    pub(super) now: DateTime<Utc>,
    /// Of the students that the requests name: who has booked, and how many seats.
    pub(super) booked: HashMap<Student, u32>,
    /// Of the ids that may have been answered before: the answers. An answer that is too old counts for nothing.
    pub(super) answered: HashMap<RequestId, Answer>,
}

/// What all requests came to.
#[derive(Debug)]
pub(super) struct Drafted {
    /// In the order of the requests.
    pub(super) answers: Vec<Result<Answer>>,
    /// Some were answered before.
    pub(super) replayed: bool,
    /// What is to be recorded, in the order of the revisions; nothing is to be committed when this is empty.
    pub(super) recorded: Vec<Answer>,
    /// The sums afterwards.
    pub(super) totals: Totals,
    /// All bookings are gone that were there before.
    pub(super) wiped: bool,
    /// Whose bookings are gone, unless all are.
    pub(super) gone: Vec<Student>,
    /// The bookings that are new.
    pub(super) booked: Vec<(Student, u32)>,
}

/// Decides them all.
///
/// # Errors
/// `Io` when the rules contradict each other: a bug.
pub(super) fn decide_all(trip: &Name, basis: Basis, requests: &[Prepared], retry: bool) -> Result<Drafted> {
    let Basis { totals, now, booked, answered } = basis;
    // Microseconds are what is kept, and a replayed answer must be the first one.
    let now = now.trunc_subsecs(6);
    let microseconds = u64::try_from(now.timestamp_micros()).unwrap_or_default();
    let fence = Fence(microseconds.max(totals.fence.0 + 1));
    let students = booked.into_iter().map(|(student, seats)| (student, (Some(seats), Some(seats)))).collect();
    let mut draft =
        Draft { trip, totals, fence, now, students, answered, wiped: false, replayed: false, recorded: Vec::new() };
    let answers = requests.iter().map(|request| draft.take(request, retry)).collect::<Result<_>>()?;
    let Draft { totals, students, wiped, replayed, recorded, .. } = draft;
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for (student, (before, after)) in students {
        if before == after {
            continue;
        }
        if let Some(seats) = after {
            new.push((student.clone(), seats));
        }
        if before.is_some() && !wiped {
            gone.push(student);
        }
    }
    Ok(Drafted { answers, replayed, recorded, totals, wiped, gone, booked: new })
}

struct Draft<'d> {
    trip: &'d Name,
    totals: Totals,
    fence: Fence,
    now: DateTime<Utc>,
    /// How many seats each has booked: on the server, and now.
    students: HashMap<Student, (Option<u32>, Option<u32>)>,
    answered: HashMap<RequestId, Answer>,
    wiped: bool,
    replayed: bool,
    recorded: Vec<Answer>,
}

impl Draft<'_> {
    /// The outer error ends everything, the inner one is this request's.
    fn take(&mut self, request: &Prepared, retry: bool) -> Result<Result<Answer>> {
        if request.given || retry {
            if let Some(answer) = self.answered_before(request, retry) {
                return Ok(Ok(answer));
            }
        }
        if self.totals.added.is_none() && !matches!(request.change, Change::Add { .. }) {
            return Ok(Err(Error::NoSuchTrip(self.trip.clone())));
        }
        let booked = request.change.student().and_then(|student| self.students.get(student)?.1);
        let event = decide(&self.totals, &request.change, booked);
        if matches!(event, Event::Refused { .. }) && !request.given {
            return Ok(Ok(self.answer(event, None, None)));
        }
        self.record(event, request).map(Ok)
    }

    fn answered_before(&mut self, request: &Prepared, retry: bool) -> Option<Answer> {
        let answer = self.answered.get(&request.id).filter(|answer| self.now - answer.time <= REQUEST_IDS_KEPT)?;
        if answer.event.answers(&request.change) {
            self.replayed = true;
            // Of a retry that nobody asked for, it is the first answer.
            return Some(Answer { replayed: request.given && !retry, ..answer.clone() });
        }
        let event = Event::Refused { change: request.change.clone(), refusal: Refusal::RequestIdReused };
        Some(self.answer(event, None, Some(request.id.clone())))
    }

    fn record(&mut self, event: Event, request: &Prepared) -> Result<Answer> {
        let broken = |why: &str| Error::io("decide", self.trip.as_str(), std::io::Error::other(why.to_owned()));
        self.totals = self.totals.after(&event, self.fence).map_err(broken)?;
        match &event {
            Event::Booked { student, seats } => self.students.entry(student.clone()).or_default().1 = Some(*seats),
            Event::Cancelled { student, .. } => self.students.entry(student.clone()).or_default().1 = None,
            Event::Added { .. } | Event::Removed => {
                self.wiped = true;
                // As on the server, once all is gone there.
                self.students.clear();
            }
            Event::Resized { .. } | Event::Refused { .. } | Event::Batch { .. } => {}
        }
        let answer = self.answer(event, Some(self.totals.revision), Some(request.id.clone()));
        self.recorded.push(answer.clone());
        if request.given {
            self.answered.insert(request.id.clone(), answer.clone());
        }
        Ok(answer)
    }

    fn answer(&self, event: Event, revision: Option<u64>, request_id: Option<RequestId>) -> Answer {
        let seats_left = self.totals.seats_left;
        let (trip, fence, time) = (self.trip.clone(), self.fence, self.now);
        Answer { trip, event, revision, fence, time, seats_left, request_id, replayed: false }
    }
}
