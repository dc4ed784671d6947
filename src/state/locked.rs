//! A trip under its lock: the only type that can change one.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    answer::Answer,
    commit::{self, CommitMode, Synced},
    files::TripFiles,
    heal,
    ledger::{Ledger, Mark, Tail},
    line::{Head, Line},
    lookup::Lookup,
    state_file::State,
    store::Store,
};
use crate::{
    booking::{Change, Event, Refusal, Request, Totals, decide},
    clock::rfc3339,
    dir::Access,
    error::{Error, Result},
    lock::{Acquire, Deferred, Fence, FileGuard, Guard as _, Holder, Missing, Until},
    name::{Name, RequestId, Student},
};

/// How long the answer to a request id is kept, from the answer on.
pub const REQUEST_IDS_KEPT: TimeDelta = TimeDelta::days(30);

/// How often a commit starts again after a failed sync before it gives up.
const ATTEMPTS: usize = 4;

/// A trip whose lock this thread holds. Dropping it releases the lock and changes nothing.
#[derive(Debug)]
#[must_use]
pub struct LockedTrip<'s> {
    store: &'s Store,
    files: TripFiles,
    guard: FileGuard,
    /// `None`: the name never was a trip.
    ledger: Option<Ledger>,
    /// Ledger bytes known to be on disk.
    durable: u64,
    /// The end of the verified lines.
    end: Mark,
}

/// What came of asking for a trip's lock.
pub(super) enum Opened<'s> {
    Granted(Box<LockedTrip<'s>>),
    Held(Option<Holder>),
    /// There is no lock file, and none was to be made.
    NoLock,
}

/// A request with the id under which a retry finds its answer.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) change: Change,
    pub(super) id: RequestId,
    /// By the caller: then it may have been answered before, and a refusal is recorded.
    pub(super) given: bool,
}

impl Prepared {
    pub(super) fn new(request: &Request) -> Result<Self> {
        let (id, given) = match &request.id {
            Some(id) => (id.clone(), true),
            None => (RequestId::generate().map_err(|e| Error::io("get randomness from", "getrandom(2)", e))?, false),
        };
        Ok(Self { change: request.change.clone(), id, given })
    }
}

/// Whether the lines of one append stand or fall together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Together {
    /// Each is a unit of its own.
    Each,
    /// All or nothing, also under a crash.
    Batch,
}

/// Answers that are not durable yet, and so not given yet.
pub(super) struct Pending {
    pub(super) answers: Vec<Result<Answer>>,
    files: TripFiles,
    /// `None`: there is no ledger, and so nothing to sync.
    ledger: Option<Ledger>,
    target: Mark,
    durable: u64,
    appended: bool,
}

impl<'s> LockedTrip<'s> {
    /// Takes the lock and brings the trip into a state that can be trusted. `suspicious`: a sync failed, so look
    /// whether the note asks for healing.
    pub(super) fn open(
        store: &'s Store,
        files: TripFiles,
        missing: Missing,
        until: Until,
        mut suspicious: bool,
    ) -> Result<Opened<'s>> {
        let mut guard = match store.lock_of(&files).acquire_file(&files.trip, missing, until)? {
            Some(Acquire::Granted(guard)) => guard,
            Some(Acquire::Held(holder)) => return Ok(Opened::Held(holder)),
            None => return Ok(Opened::NoLock),
        };
        for _ in 0..ATTEMPTS {
            let Some(ledger) = Ledger::open(&files.dir, &files.ledger, &files.trip, Access::ReadWrite)? else {
                let nothing = Self { store, files, guard, ledger: None, durable: 0, end: Mark::START };
                return Ok(Opened::Granted(Box::new(nothing)));
            };
            let size = ledger.size()?;
            match State::read(&files)?.filter(|state| state.generation >= ledger.generation()) {
                None => heal::heal(&files, &ledger, false)?,
                Some(state) => {
                    check_claims(&files, &ledger, &state, size)?;
                    let verified = ledger.verify(Mark { offset: state.durable, totals: state.totals }, size)?;
                    if verified.tail == Tail::Torn || suspicious {
                        heal::heal(&files, &ledger, verified.tail == Tail::Torn)?;
                        suspicious = false;
                        continue;
                    }
                    let (end, durable) = (verified.end, state.durable);
                    guard.raise_fence(end.totals.fence)?;
                    let ready = Self { store, files, guard, ledger: Some(ledger), durable, end };
                    return Ok(Opened::Granted(Box::new(ready)));
                }
            }
        }
        Err(Error::io(
            "heal",
            files.dir.path_of(&files.ledger),
            std::io::Error::other("it needs healing again and again"),
        ))
    }

    /// The trip's name.
    pub fn name(&self) -> &Name {
        &self.files.trip
    }

    /// The trip's sums, also those of lines that are not durable yet; `None` when there is no such trip.
    pub fn totals(&self) -> Option<&Totals> {
        Some(&self.end.totals).filter(|totals| totals.added.is_some())
    }

    /// The fence of this acquisition.
    pub fn fence(&self) -> Fence {
        self.guard.fence()
    }

    /// How many seats the student has booked, if any.
    pub fn booked(&self, student: &Student) -> Result<Option<u32>> {
        let Some(ledger) = &self.ledger else { return Ok(None) };
        let lookup = Lookup::open(&self.files, ledger, self.durable, self.end, 1)?;
        booked(&lookup, &self.end.totals, student)
    }

    /// Decides the request, makes it durable, releases the lock, answers.
    ///
    /// # Errors
    /// `NoSuchTrip`; `LockLost` when the lock file was replaced meanwhile, and nothing was committed; `Uncertain` when
    /// what was appended may or may not be on disk; `Io` when nothing was appended.
    pub fn submit(self, request: &Request) -> Result<Answer> {
        let answers = self.submit_all(&[Prepared::new(request)?], Together::Each)?;
        answers.into_iter().next().unwrap_or_else(|| unreachable!("one request, one answer"))
    }

    /// The same for many requests that stand or fall together under a crash: one append, one commit. Each has an
    /// answer of its own, in order; that one is refused does not keep the others back.
    pub fn submit_batch(self, requests: &[Request]) -> Result<Vec<Answer>> {
        let prepared = requests.iter().map(Prepared::new).collect::<Result<Vec<_>>>()?;
        self.submit_all(&prepared, Together::Batch)?.into_iter().collect()
    }

    pub(super) fn submit_all(self, requests: &[Prepared], together: Together) -> Result<Vec<Result<Answer>>> {
        let (store, files) = (self.store, self.files.clone());
        let mut pending = self.append(requests, together, false)?;
        let mut touched = pending.appended;
        for _ in 0..ATTEMPTS {
            let uncertain = |why: String| Error::Uncertain {
                request_id: Some(&requests[0].id).filter(|_| requests.len() == 1).cloned(),
                why,
            };
            // Once something is appended, every failure leaves the outcome open.
            let soften = |touched: bool| {
                move |e: Error| match e {
                    e @ (Error::Corrupt { .. } | Error::NewerFormat { .. }) => e,
                    e if touched => uncertain(e.to_string()),
                    e => e,
                }
            };
            if pending.make_durable(store).map_err(soften(touched))? == Synced::Durable {
                return Ok(pending.finish(store));
            }
            let until = Until::At(std::time::Instant::now() + commit::PATIENCE);
            match Self::open(store, files.clone(), Missing::Create, until, true).map_err(soften(touched))? {
                Opened::Granted(again) => pending = again.append(requests, together, true).map_err(soften(touched))?,
                Opened::Held(_) | Opened::NoLock => return Err(uncertain("the trip stayed locked".to_owned())),
            }
            touched |= pending.appended;
        }
        Err(Error::Uncertain {
            request_id: Some(&requests[0].id).filter(|_| requests.len() == 1).cloned(),
            why: format!("{} could not be synced, nor copied", files.dir.path_of(&files.ledger).display()),
        })
    }

    /// Decides all requests and appends what is to be recorded; releases the lock, unless the mode is to sync under it.
    fn append(self, requests: &[Prepared], together: Together, retry: bool) -> Result<Pending> {
        let lookup = match &self.ledger {
            Some(ledger) => Some(Lookup::open(&self.files, ledger, self.durable, self.end, requests.len())?),
            None => None,
        };
        let mut draft = Draft::new(&self, lookup, together == Together::Batch);
        let answers: Vec<_> = requests.iter().map(|request| draft.take(request, retry)).collect::<Result<_>>()?;
        let (bytes, totals) = draft.finish()?;
        let Self { store, files, guard, ledger, durable, end } = self;
        if bytes.is_empty() {
            return Ok(Pending { answers, files, ledger, target: end, durable, appended: false });
        }
        let target = Mark { offset: end.offset + bytes.len() as u64, totals };
        // The compare of the compare-and-set: a lock file or a ledger that was replaced under us means that somebody
        // else may have committed since.
        let unchanged = match &ledger {
            Some(ledger) => files.ledger_is(ledger.id())? && ledger.size()? == end.offset,
            None => files.dir.stat(&files.ledger)?.is_none(),
        };
        if !unchanged || !guard.is_valid()? {
            return Err(Error::LockLost(files.trip));
        }
        if store.defers_signals() {
            Deferred::begin();
        }
        let (ledger, durable) = match ledger {
            Some(ledger) => {
                append_bytes(&files, &ledger, end.offset, &bytes)?;
                (ledger, durable)
            }
            None => (heal::found(&files, &bytes, target.totals)?, target.offset),
        };
        let mut pending = Pending { answers, files, ledger: Some(ledger), target, durable, appended: true };
        if store.commit_mode() == CommitMode::OneLock {
            // A failure shows again when the caller asks; by then the lock is free.
            let _ = pending.make_durable_alone();
        }
        drop(guard);
        Ok(pending)
    }
}

/// A state of this or a later generation must not claim what the ledger does not have.
fn check_claims(files: &TripFiles, ledger: &Ledger, state: &State, size: u64) -> Result<()> {
    if state.generation > ledger.generation() {
        let why = format!(
            "the state is of generation {}, and the ledger {} of {}: an old ledger was put back",
            state.generation,
            files.ledger,
            ledger.generation()
        );
        return Err(Error::Corrupt { path: files.dir.path_of(&files.state), offset: 0, why });
    }
    if state.durable > size {
        return Err(ledger.corrupt(size, format!("it ends here, and {} bytes were on disk", state.durable)));
    }
    if !ledger.line_ends_at(state.durable)? {
        return Err(ledger.corrupt(state.durable - 1, "no line ends here, and one did when it was synced"));
    }
    Ok(())
}

fn booked(lookup: &Lookup, totals: &Totals, student: &Student) -> Result<Option<u32>> {
    let line = lookup.student(student)?;
    Ok(line.and_then(|line| match line.event {
        Event::Booked { seats, .. } if totals.added.is_some_and(|added| line.revision > added) => Some(seats),
        _ => None,
    }))
}

/// Appends, or leaves the ledger as it was.
fn append_bytes(files: &TripFiles, ledger: &Ledger, at: u64, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let Err(e) = ledger.file().write_all_at(bytes, at) else { return Ok(()) };
    match ledger.file().set_len(at) {
        Ok(()) => Err(Error::io("append to", files.dir.path_of(&files.ledger), e)),
        Err(cut) => Err(Error::Uncertain { request_id: None, why: format!("{e}, and then {cut}") }),
    }
}

/// Lines that are being decided, one after another, each in the light of those before.
struct Draft<'d> {
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
    empty: bool,
}

impl<'d> Draft<'d> {
    fn new(trip: &'d LockedTrip, lookup: Option<Lookup<'d>>, in_batch: bool) -> Self {
        let now = trip.store.clock().now();
        // Microseconds are what the ledger keeps, and a replayed answer must be the first one.
        let now = chrono::SubsecRound::trunc_subsecs(now, 6);
        Self {
            lookup,
            trip: &trip.files.trip,
            totals: trip.end.totals,
            fence: trip.guard.fence(),
            durable: trip.durable,
            now,
            time: rfc3339(now),
            in_batch,
            lines: 0,
            bytes: Vec::new(),
            booked: HashMap::new(),
            answered: HashMap::new(),
            empty: trip.ledger.is_none(),
        }
    }

    /// The outer error ends everything, the inner one is this request's.
    fn take(&mut self, request: &Prepared, retry: bool) -> Result<Result<Answer>> {
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
        let head = (self.empty && self.bytes.is_empty()).then(|| Head { generation: 1, trip: self.trip.clone() });
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

    /// The bytes to append, and the sums after them.
    fn finish(mut self) -> Result<(Vec<u8>, Totals)> {
        if self.in_batch && self.lines > 0 {
            self.write(Event::Batch { count: self.lines }, None, false)?;
        }
        Ok((self.bytes, self.totals))
    }
}

impl Pending {
    fn make_durable(&mut self, store: &Store) -> Result<Synced> {
        let Some(ledger) = &self.ledger else { return Ok(Synced::Durable) };
        if self.durable >= self.target.offset {
            return Ok(Synced::Durable);
        }
        if store.commit_mode() == CommitMode::OneLock {
            // An answer without a line: what it rests on was synced by whoever wrote it, or is not yet.
            return self.make_durable_alone();
        }
        let synced = commit::make_durable(&self.files, ledger, self.target)?;
        if synced == Synced::Durable {
            self.durable = self.target.offset;
        }
        Ok(synced)
    }

    fn make_durable_alone(&mut self) -> Result<Synced> {
        let Some(ledger) = &self.ledger else { return Ok(Synced::Durable) };
        if self.durable >= self.target.offset {
            return Ok(Synced::Durable);
        }
        let synced = commit::make_durable_alone(&self.files, ledger, self.target)?;
        if synced == Synced::Durable {
            self.durable = self.target.offset;
        }
        Ok(synced)
    }

    fn finish(self, store: &Store) -> Vec<Result<Answer>> {
        if let Some(ledger) = self.ledger {
            store.remember_untidy(self.files, ledger, self.durable);
        }
        self.answers
    }
}
