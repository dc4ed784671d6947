//! Deciding requests one after another, and writing the lines that record them. Nothing is on disk yet.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    answer::Answer,
    index::Index,
    ledger::Mark,
    line::{Head, Line},
    lookup::Lookup,
};
use crate::{
    booking::{Change, Event, Refusal, Request, Totals, decide},
    clock::rfc3339,
    error::{Error, Result},
    lock::Fence,
    name::{Name, RequestId, RequestIds, Student},
};

/// How long the answer to a request id is kept, from the answer on.
pub const REQUEST_IDS_KEPT: TimeDelta = TimeDelta::days(30);

/// Bytes of most lines; a guess that saves moving them about while they grow.
const TYPICAL_LINE: usize = 256;

/// A request with the id under which a retry finds its answer.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) change: Change,
    pub(crate) id: RequestId,
    /// By the caller: then it may have been answered before, and a refusal is recorded.
    pub(crate) given: bool,
}

impl Prepared {
    /// `ids`: where an id comes from when none was given.
    pub(crate) fn new(request: &Request, ids: &mut RequestIds) -> Result<Self> {
        let (id, given) = match &request.id {
            Some(id) => (id.clone(), true),
            None => (ids.next().map_err(|e| Error::io("get randomness from", "getrandom(2)", e))?, false),
        };
        Ok(Self { change: request.change.clone(), id, given })
    }

    pub(crate) fn one(request: &Request) -> Result<Self> {
        Self::new(request, &mut RequestIds::default())
    }

    pub(crate) fn all(requests: &[Request]) -> Result<Vec<Self>> {
        let mut ids = RequestIds::default();
        requests.iter().map(|request| Self::new(request, &mut ids)).collect()
    }
}

/// What a draft starts from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Basis<'d> {
    pub(super) trip: &'d Name,
    pub(super) fence: Fence,
    /// The end of the verified lines.
    pub(super) end: Mark,
    /// Ledger bytes known to be on disk.
    pub(super) durable: u64,
    pub(super) now: DateTime<Utc>,
}

/// Lines that are being decided, one after another, each in the light of those before.
pub(super) struct Draft<'d> {
    lookup: Option<Lookup<'d>>,
    trip: &'d Name,
    totals: Totals,
    fence: Fence,
    durable: u64,
    now: DateTime<Utc>,
    /// `now` as the lines have it.
    time: String,
    in_batch: bool,
    lines: u64,
    bytes: Vec<u8>,
    /// What the lines of this draft did to a student's booking.
    booked: HashMap<Student, Option<u32>>,
    answered: HashMap<RequestId, Answer>,
    /// The first line is the ledger's.
    first: bool,
}

impl<'d> Draft<'d> {
    pub(super) fn new(basis: Basis<'d>, lookup: Option<Lookup<'d>>, in_batch: bool, requests: usize) -> Self {
        // Microseconds are what the ledger keeps, and a replayed answer must be the first one.
        let now = chrono::SubsecRound::trunc_subsecs(basis.now, 6);
        Self {
            lookup,
            trip: basis.trip,
            totals: basis.end.totals,
            fence: basis.fence,
            durable: basis.durable,
            now,
            time: rfc3339(now),
            in_batch,
            lines: 0,
            bytes: Vec::with_capacity(requests.min(1024) * TYPICAL_LINE),
            booked: HashMap::with_capacity(requests),
            answered: HashMap::new(),
            first: basis.end.offset == 0,
        }
    }

    /// The outer error ends everything, the inner one is this request's.
    pub(super) fn take(&mut self, request: &Prepared, retry: bool) -> Result<Result<Answer>> {
        if request.given || retry {
            if let Some(answer) = self.answered_before(request, retry)? {
                return Ok(Ok(answer));
            }
        }
        if self.totals.added.is_none() && !matches!(request.change, Change::Add { .. }) {
            return Ok(Err(Error::NoSuchTrip(self.trip.clone())));
        }
        let booked = match request.change.student() {
            Some(student) => self.booked(student)?,
            None => None,
        };
        let event = decide(&self.totals, &request.change, booked);
        let refused = matches!(event, Event::Refused { .. });
        if refused && !request.given {
            return Ok(Ok(self.unrecorded(event, None)));
        }
        self.record(event, request).map(Ok)
    }

    fn answered_before(&self, request: &Prepared, retry: bool) -> Result<Option<Answer>> {
        let answer = match self.answered.get(&request.id) {
            Some(answer) => Some(Answer { replayed: true, ..answer.clone() }),
            None => match &self.lookup {
                Some(lookup) => lookup
                    .request(&request.id)?
                    .filter(|line| self.now - line.time <= REQUEST_IDS_KEPT)
                    .map(|line| Answer::of_line(self.trip, line, !retry)),
                None => None,
            },
        };
        Ok(answer.map(|answer| {
            if answer.event.answers(&request.change) {
                return answer;
            }
            let change = request.change.clone();
            let event = Event::Refused { change, refusal: Refusal::RequestIdReused };
            self.unrecorded(event, Some(request.id.clone()))
        }))
    }

    fn booked(&self, student: &Student) -> Result<Option<u32>> {
        match (self.booked.get(student), &self.lookup) {
            (Some(booked), _) => Ok(*booked),
            (None, Some(lookup)) => booked(lookup, &self.totals, student),
            (None, None) => Ok(None),
        }
    }

    fn unrecorded(&self, event: Event, request_id: Option<RequestId>) -> Answer {
        Answer {
            trip: self.trip.clone(),
            event,
            revision: None,
            fence: self.fence,
            time: self.now,
            seats_left: self.totals.seats_left,
            request_id,
            replayed: false,
        }
    }

    fn record(&mut self, event: Event, request: &Prepared) -> Result<Answer> {
        let line = self.write(event, Some(request.id.clone()), self.in_batch)?;
        match &line.event {
            Event::Booked { student, seats } => _ = self.booked.insert(student.clone(), Some(*seats)),
            Event::Cancelled { student, .. } => _ = self.booked.insert(student.clone(), None),
            // Whoever had booked the trip before has not booked this one; the look-up sees that from the revision.
            Event::Added { .. } | Event::Removed => self.booked.clear(),
            Event::Resized { .. } | Event::Refused { .. } | Event::Batch { .. } => {}
        }
        let answer = Answer::of_line(self.trip, line, false);
        if request.given {
            self.answered.insert(request.id.clone(), answer.clone());
        }
        Ok(answer)
    }

    fn write(&mut self, event: Event, request_id: Option<RequestId>, in_batch: bool) -> Result<Line> {
        let broken = |why: &str| Error::io("decide", self.trip.as_str(), std::io::Error::other(why.to_owned()));
        self.totals = self.totals.after(&event, self.fence).map_err(broken)?;
        let head = (self.first && self.bytes.is_empty()).then(|| Head { generation: 1, trip: self.trip.clone() });
        let line = Line {
            revision: self.totals.revision,
            event,
            in_batch,
            request_id,
            fence: self.fence,
            time: self.now,
            seats_left: self.totals.seats_left,
            synced: self.durable,
            head,
        };
        line.encode(&self.time, &mut self.bytes);
        self.lines += 1;
        Ok(line)
    }

    /// Ends a batch with its own line.
    pub(super) fn close(&mut self) -> Result<()> {
        if self.in_batch && self.lines > 0 {
            self.write(Event::Batch { count: self.lines }, None, false)?;
        }
        Ok(())
    }

    /// The lines that are not on their way yet.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn clear_bytes(&mut self) {
        self.bytes.clear();
    }

    /// The sums after the last line.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn into_index(self) -> Option<Index> {
        self.lookup.and_then(Lookup::into_index)
    }
}

/// How many seats the student has booked on the trip as it is now; a booking on an earlier trip of the name is none.
pub(super) fn booked(lookup: &Lookup, totals: &Totals, student: &Student) -> Result<Option<u32>> {
    let line = lookup.student(student)?;
    Ok(line.and_then(|line| match line.event {
        Event::Booked { seats, .. } if totals.added.is_some_and(|added| line.revision > added) => Some(seats),
        _ => None,
    }))
}
