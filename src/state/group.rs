//! Group commit among the threads of one process: whoever comes first leads.
//!
//! The leader takes the trip's lock, then takes along every request that came in meanwhile, appends all of them with
//! one write, syncs once, and hands out the answers. Requests that come while it is at work wait for the next leader,
//! which is the first of them; it waits a moment for the threads that were answered just before. So a process with many
//! threads asks for the file lock once per group, not once per thread, and each sync pays for all. On a server it is one
//! round trip and one transaction that pay for all; there the leader can take the others along only before it asks for
//! the lock, so when it asked in vain they go back to the queue: each has a wait of its own.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, Thread, ThreadId},
    time::{Duration, Instant},
};

use super::{answer::Answer, draft::Prepared};
use crate::{
    error::{Error, Result},
    lock::{Acquire, Until},
    name::Name,
};

/// How long a leader waits for the others at most: less than the sync that it saves them.
const GATHERING: Duration = Duration::from_micros(100);

/// How the requests of a group are committed.
pub(crate) trait Committer {
    /// Whether this thread holds the trip's lock, which a leader would wait for.
    fn is_held_here(&self) -> Result<bool>;

    /// Takes the lock for the leader's own request, waiting as long as that may, and commits all that `take` gives; the
    /// leader's own is among them, and there is an answer for each. It calls `take` once, as late as it can.
    fn commit(&self, own: &Prepared, until: Until, take: impl FnOnce() -> Vec<Prepared>) -> Result<Acquire<Answers>>;
}

/// An answer for each request, in their order.
pub(crate) type Answers = Vec<Result<Answer>>;

/// One trip's requests from this process.
#[derive(Debug, Default)]
pub(crate) struct Group {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Requests that nobody has taken along yet; the leader's own is among them.
    waiting: VecDeque<Arc<Slot>>,
    led: bool,
    /// Who leads, once it is at it.
    leader: Option<ThreadId>,
    /// How many threads were at it when the last group was answered.
    busy: usize,
}

/// One thread's request.
#[derive(Debug)]
struct Slot {
    request: Prepared,
    thread: Thread,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
enum Progress {
    Waiting,
    /// It is this thread's turn to lead.
    Lead,
    /// A leader has it.
    Taken,
    Done(Result<Acquire<Answer>>),
}

impl Slot {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, progress: Progress) {
        *self.progress() = progress;
        self.thread.unpark();
    }
}

impl Group {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn submit(
        &self,
        committer: &impl Committer,
        trip: &Name,
        request: Prepared,
        until: Until,
    ) -> Result<Acquire<Answer>> {
        let slot = Arc::new(Slot { request, thread: thread::current(), progress: Mutex::new(Progress::Waiting) });
        {
            let mut inner = self.inner();
            if inner.led
                && until != Until::Now
                && (inner.leader == Some(thread::current().id()) || committer.is_held_here()?)
            {
                // The leader may be waiting for the very lock that this thread holds.
                return Err(Error::Reentrant(trip.clone()));
            }
            inner.waiting.push_back(Arc::clone(&slot));
            if !inner.led {
                inner.led = true;
                *slot.progress() = Progress::Lead;
            }
        }
        loop {
            let mut progress = slot.progress();
            match std::mem::replace(&mut *progress, Progress::Taken) {
                Progress::Done(answer) => return answer,
                Progress::Lead => {
                    drop(progress);
                    self.lead(committer, &slot, until);
                }
                Progress::Waiting => {
                    *progress = Progress::Waiting;
                    drop(progress);
                    if !self.park(&slot, until) {
                        return Ok(Acquire::Held(None));
                    }
                }
                Progress::Taken => {
                    drop(progress);
                    thread::park();
                }
            }
        }
    }

    /// Sleeps until there is progress. `false`: the wait is over, and nobody has taken the request along.
    fn park(&self, slot: &Arc<Slot>, until: Until) -> bool {
        let left = match until {
            Until::Never => None,
            Until::Now => Some(Duration::ZERO),
            Until::At(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
        };
        match left {
            None => thread::park(),
            Some(left) if left.is_zero() => {
                let mut inner = self.inner();
                // Its turn may have come in the last moment.
                if matches!(*slot.progress(), Progress::Waiting) {
                    inner.waiting.retain(|waiting| !Arc::ptr_eq(waiting, slot));
                    return false;
                }
            }
            Some(left) => thread::park_timeout(left),
        }
        true
    }

    /// Waits a moment for the threads that were answered just now: they are about to ask again, and a group that left
    /// without them would be followed by one of just them. Costs nothing when nobody else was there.
    fn gather(&self) {
        let deadline = Instant::now() + GATHERING;
        loop {
            let inner = self.inner();
            if inner.waiting.len() >= inner.busy || Instant::now() >= deadline {
                return;
            }
            drop(inner);
            thread::yield_now();
        }
    }

    fn lead(&self, committer: &impl Committer, own: &Arc<Slot>, until: Until) {
        self.inner().leader = Some(thread::current().id());
        self.gather();
        let mut lead = Lead { group: self, own, taken: Vec::new() };
        // Requests by reference would tie the slots to the lock; they are few words each.
        let done = committer.commit(&own.request, until, || {
            lead.take_all();
            lead.taken.iter().map(|slot| slot.request.clone()).collect()
        });
        if lead.taken.is_empty() {
            lead.take_own();
        }
        match done {
            Ok(Acquire::Granted(answers)) => {
                let mut answers = answers.into_iter();
                lead.answer(|_| answers.next().expect("an answer for each request").map(Acquire::Granted));
            }
            Ok(Acquire::Held(holder)) => {
                lead.put_others_back();
                lead.answer(|_| Ok(Acquire::Held(holder.clone())));
            }
            Err(e) => lead.answer(|slot| Err(e.clone().about(&slot.request.id))),
        }
    }
}

/// The duty to answer who was taken along, and to hand the lead on; also when the leader panics.
struct Lead<'g> {
    group: &'g Group,
    own: &'g Arc<Slot>,
    taken: Vec<Arc<Slot>>,
}

impl Lead<'_> {
    /// Takes along everybody who waits.
    fn take_all(&mut self) {
        self.taken = self.group.inner().waiting.drain(..).collect();
        for slot in &self.taken {
            *slot.progress() = Progress::Taken;
        }
    }

    /// Lets all but its own request wait again, before those that came meanwhile.
    fn put_others_back(&mut self) {
        let (own, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.taken).into_iter().partition(|slot| Arc::ptr_eq(slot, self.own));
        self.taken = own;
        let mut inner = self.group.inner();
        for slot in others.into_iter().rev() {
            // Awake, it looks whether its own wait is over.
            slot.set(Progress::Waiting);
            inner.waiting.push_front(slot);
        }
    }

    fn take_own(&mut self) {
        self.leave_queue();
        self.taken = vec![Arc::clone(self.own)];
    }

    fn leave_queue(&self) {
        self.group.inner().waiting.retain(|waiting| !Arc::ptr_eq(waiting, self.own));
    }

    fn answer(mut self, mut answer: impl FnMut(&Slot) -> Result<Acquire<Answer>>) {
        {
            let mut inner = self.group.inner();
            inner.busy = inner.waiting.len() + self.taken.len();
        }
        for slot in std::mem::take(&mut self.taken) {
            let answer = answer(&slot);
            slot.set(Progress::Done(answer));
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        for slot in std::mem::take(&mut self.taken) {
            let why = "the thread that was committing it panicked".to_owned();
            let request_id = Some(slot.request.id.clone());
            slot.set(Progress::Done(Err(Error::Uncertain { request_id, why })));
        }
        // A leader that panicked early is still in the queue, and must not be its own successor.
        self.leave_queue();
        let mut inner = self.group.inner();
        inner.leader = None;
        match inner.waiting.front() {
            Some(next) => next.set(Progress::Lead),
            None => inner.led = false,
        }
    }
}
