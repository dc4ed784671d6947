//! A trip under its lock: the only type that can change one.

use super::{
    answer::Answer,
    append::{self, Append},
    commit::{self, CommitMode, Synced},
    context::Context,
    draft::{Basis, Draft, Prepared, booked},
    files::TripFiles,
    heal, index,
    kept::Kept,
    ledger::{Ledger, Mark, Tail},
    lookup::Lookup,
    read,
    state_file::State,
};
use crate::{
    booking::{Change, Request, Totals},
    dir::Access,
    error::{Error, Result},
    lock::{Acquire, Deferred, Fence, FileGuard, Guard as _, Holder, Missing, Until},
    name::{Name, Student},
};

/// Bytes of lines after which a batch goes to the ledger: what it holds in memory does not grow with it.
const CHUNK: usize = 256 * 1024;

/// How often a commit starts again after a failed sync before it gives up.
const ATTEMPTS: usize = 4;

/// A trip whose lock this thread holds. Dropping it releases the lock and changes nothing.
#[derive(Debug)]
#[must_use]
pub struct LockedTrip<'s> {
    context: &'s Context,
    files: TripFiles,
    guard: FileGuard,
    /// `None`: the name never was a trip.
    ledger: Option<Ledger>,
    /// Ledger bytes known to be on disk.
    durable: u64,
    /// The end of the verified lines.
    end: Mark,
    kept: Kept,
}

/// What came of asking for a trip's lock.
pub(super) enum Opened<'s> {
    Granted(Box<LockedTrip<'s>>),
    Held(Option<Holder>),
    /// There is no lock file, and none was to be made.
    NoLock,
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
    /// Ledger bytes that the index knew.
    covered: u64,
    kept: Kept,
}

impl<'s> LockedTrip<'s> {
    /// Takes the lock for that change: only [`Change::Add`] makes a trip's files.
    pub(super) fn open_for(context: &'s Context, trip: &Name, change: &Change, until: Until) -> Result<Opened<'s>> {
        let adds = matches!(change, Change::Add { .. });
        let Some(dir) = (if adds { Some(context.make_trips()?) } else { context.trips()? }) else {
            return Ok(Opened::NoLock);
        };
        let files = TripFiles::new(dir, trip.clone());
        // A lock file that was removed by hand is made again, for a trip that is there.
        let missing = if adds || files.dir.stat(&files.ledger)?.is_some() { Missing::Create } else { Missing::GiveUp };
        if let (Some(announce), true) = (&context.announce, until != Until::Now) {
            match Self::open(context, files.clone(), missing, Until::Now, false)? {
                Opened::Held(holder) => announce(trip, holder.as_ref()),
                opened => return Ok(opened),
            }
        }
        Self::open(context, files, missing, until, false)
    }

    /// Takes the lock and brings the trip into a state that can be trusted. `suspicious`: a sync failed, so look
    /// whether the note asks for healing.
    pub(super) fn open(
        context: &'s Context,
        files: TripFiles,
        missing: Missing,
        until: Until,
        mut suspicious: bool,
    ) -> Result<Opened<'s>> {
        let mut kept = context.take_kept(&files.trip);
        let mut guard = match context.lock_of(&files).acquire_file(&files.trip, missing, until, kept.lock.take())? {
            Some(Acquire::Granted(guard)) => guard,
            Some(Acquire::Held(holder)) => return Ok(Opened::Held(holder)),
            None => return Ok(Opened::NoLock),
        };
        for _ in 0..ATTEMPTS {
            let ledger = match kept.ledger.take() {
                Some(ledger) if files.ledger_is(ledger.id())? => Some(ledger),
                _ => Ledger::open(&files.dir, &files.ledger, &files.trip, Access::ReadWrite)?,
            };
            let Some(ledger) = ledger else {
                read::check_never_a_trip(&files)?;
                let nothing = Self { context, files, guard, ledger: None, durable: 0, end: Mark::START, kept };
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
                    let ready = Self { context, files, guard, ledger: Some(ledger), durable, end, kept };
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
        let lookup = Lookup::open(&self.files, ledger, self.durable, self.end, 1, None)?;
        booked(&lookup, &self.end.totals, student)
    }

    /// Decides the request, makes it durable, releases the lock, answers.
    ///
    /// # Errors
    /// `NoSuchTrip`; `LockLost` when the lock file was replaced meanwhile, and nothing was committed; `Uncertain` when
    /// what was appended may or may not be on disk; anything else when nothing was appended.
    pub fn submit(self, request: &Request) -> Result<Answer> {
        let context = self.context;
        let answers = self.submit_all(&[Prepared::one(request)?], Together::Each)?;
        context.tidy_unless_asked_to();
        answers.into_iter().next().unwrap_or_else(|| unreachable!("one request, one answer"))
    }

    /// The same for many requests that stand or fall together under a crash: one append, one commit. Each has an
    /// answer of its own, in order; that one is refused does not keep the others back.
    pub fn submit_batch(self, requests: &[Request]) -> Result<Vec<Answer>> {
        let prepared = Prepared::all(requests)?;
        let context = self.context;
        let answers = self.submit_all(&prepared, Together::Batch)?;
        context.tidy_unless_asked_to();
        answers.into_iter().collect()
    }

    pub(super) fn submit_all(self, requests: &[Prepared], together: Together) -> Result<Vec<Result<Answer>>> {
        let (context, files) = (self.context, self.files.clone());
        // Of several requests none speaks for the others.
        let only = match requests {
            [only] => Some(&only.id),
            _ => None,
        };
        let uncertain = |why: String| Error::Uncertain { request_id: only.cloned(), why };
        // From the first append to the answer.
        let mut deferred = None;
        let mut pending = self.append(requests, together, false, &mut deferred)?;
        let first_answers: Vec<bool> = pending.answers.iter().map(|a| matches!(a, Ok(a) if a.replayed)).collect();
        let mut touched = pending.is_recorded();
        for _ in 0..ATTEMPTS {
            // Once something is appended, every failure leaves the outcome open.
            let soften = |touched: bool| {
                move |e: Error| match e {
                    e @ (Error::Corrupt { .. } | Error::NewerFormat { .. } | Error::Uncertain { .. }) => e,
                    e if touched => uncertain(e.to_string()),
                    e => e,
                }
            };
            if pending.make_durable(context).map_err(soften(touched))? == Synced::Durable {
                return Ok(pending.finish(context));
            }
            let until = Until::At(std::time::Instant::now() + commit::PATIENCE);
            match Self::open(context, files.clone(), Missing::Create, until, true).map_err(soften(touched))? {
                Opened::Granted(again) => {
                    pending = again.append(requests, together, true, &mut deferred).map_err(soften(touched))?;
                }
                Opened::Held(_) | Opened::NoLock => return Err(uncertain("the trip stayed locked".to_owned())),
            }
            touched |= pending.is_recorded();
            // A retry finds what the attempt before recorded; that alone does not make it an answer given again.
            for (answer, was_replayed) in pending.answers.iter_mut().zip(&first_answers) {
                if let Ok(answer) = answer {
                    answer.replayed |= was_replayed;
                }
            }
        }
        Err(uncertain(format!("{} could not be synced, nor copied", files.dir.path_of(&files.ledger).display())))
    }

    /// Decides all requests and appends what is to be recorded; releases the lock, unless the mode is to sync under it.
    fn append(
        self,
        requests: &[Prepared],
        together: Together,
        retry: bool,
        deferred: &mut Option<Deferred>,
    ) -> Result<Pending> {
        let Self { context, files, guard, ledger, durable, end, mut kept } = self;
        let lookup = match &ledger {
            Some(ledger) => Some(Lookup::open(&files, ledger, durable, end, requests.len(), kept.index.take())?),
            None => None,
        };
        let covered = lookup.as_ref().map_or(0, Lookup::covered);
        let basis = Basis { trip: &files.trip, fence: guard.fence(), end, durable, now: context.now() };
        let mut draft = Draft::new(basis, lookup, together == Together::Batch, requests.len());
        let mut answers = Vec::with_capacity(requests.len());
        let mut begin = || {
            if context.for_process && deferred.is_none() {
                *deferred = Some(Deferred::begin());
            }
        };
        let (target, founded) = if let Some(ledger) = &ledger {
            let mut append = Append::new(&files, &guard, ledger, end.offset);
            let mut decide = || {
                for request in requests {
                    answers.push(draft.take(request, retry)?);
                    if draft.bytes().len() >= CHUNK {
                        append.write(draft.bytes(), &mut begin)?;
                        draft.clear_bytes();
                    }
                }
                draft.close()?;
                append.write(draft.bytes(), &mut begin)
            };
            if let Err(e) = decide() {
                return Err(append.undo(e));
            }
            (Mark { offset: append.end(), totals: draft.totals() }, None)
        } else {
            for request in requests {
                answers.push(draft.take(request, retry)?);
            }
            draft.close()?;
            let target = Mark { offset: draft.bytes().len() as u64, totals: draft.totals() };
            if draft.bytes().is_empty() {
                (target, None)
            } else {
                append::check_unchanged(&files, &guard, None)?;
                begin();
                let founded = heal::found(&files, draft.bytes(), target.totals);
                (target, Some(founded.map_err(|e| e.about(&requests[0].id))?))
            }
        };
        kept.index = draft.into_index();
        let (ledger, durable) = match founded {
            Some(founded) => (Some(founded), target.offset),
            None => (ledger, durable),
        };
        let mut pending = Pending { answers, files, ledger, target, durable, covered, kept };
        if context.mode == CommitMode::OneLock {
            // A failure shows again when the caller asks; by then the lock is free.
            let _ = pending.make_durable_alone();
        }
        pending.kept.lock = guard.release();
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

impl Pending {
    /// Whether any answer is a line of the ledger: then a failure from here on leaves its outcome open.
    fn is_recorded(&self) -> bool {
        self.answers.iter().any(|answer| matches!(answer, Ok(answer) if answer.revision.is_some()))
    }

    fn make_durable(&mut self, context: &Context) -> Result<Synced> {
        let Some(ledger) = &self.ledger else { return Ok(Synced::Durable) };
        if self.durable >= self.target.offset {
            return Ok(Synced::Durable);
        }
        if context.mode == CommitMode::OneLock {
            // An answer without a line: what it rests on was synced by whoever wrote it, or is not yet.
            return self.make_durable_alone();
        }
        let synced = commit::make_durable(&self.files, ledger, self.target, &mut self.kept.sync)?;
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

    fn finish(mut self, context: &Context) -> Vec<Result<Answer>> {
        if let Some(ledger) = self.ledger {
            if self.durable - self.covered.min(self.durable) >= index::CHECKPOINT_AT {
                context.remember_untidy(self.files.clone(), ledger, self.durable);
            } else {
                self.kept.ledger = Some(ledger);
            }
        }
        context.keep(&self.files.trip, self.kept);
        self.answers
    }
}
