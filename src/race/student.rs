//! What a student does. The same code for every lock, in a thread and in a process.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{locks::Locks, message::Message, moment::Moment, tracker::Tracker, what::What};
use crate::{
    error::Error,
    lock::{Acquire, Wait},
};

/// One student.
#[derive(Debug, Clone, Copy)]
pub(super) struct Student {
    pub(super) number: u32,
    pub(super) delay: Duration,
    pub(super) wait: Wait,
}

/// Sleeps, unless a signal called the race off: a sleeping thread would keep its process from cleaning up.
fn sleep(delay: Duration) -> Result<(), Stop> {
    const NAP: Duration = Duration::from_millis(100);
    let until = Instant::now() + delay;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        if crate::lock::signal_arrived() {
            return Err(Stop::CalledOff);
        }
        thread::sleep(left.min(NAP));
    }
}

/// Why a student stops before it is done.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nobody listens any more: the race was called off.
    CalledOff,
    /// Something failed.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Student {
    /// Runs to the end and tells how it went; silent when the race was called off.
    pub(super) fn race(self, tracker: &Tracker, locks: &Locks, tell: impl Fn(&Message) -> Result<(), Stop>) {
        let student = self.number;
        let last = match self.try_race(tracker, locks, &tell) {
            Ok(()) => Message::Done { student },
            Err(Stop::Failed(error)) => Message::failed(student, &error),
            Err(Stop::CalledOff) => return,
        };
        // When nobody hears it, it does not matter.
        let _ = tell(&last);
    }

    /// The lock, if there is one, is held from before the check until after the act: that is the whole cure.
    fn try_race(
        self,
        tracker: &Tracker,
        locks: &Locks,
        tell: &impl Fn(&Message) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let say = |what| tell(&Message::Saw { student: self.number, at: Moment::now(), what });

        say(What::Checking)?;
        let ticket = locks.take_ticket(self.number, self.wait)?;
        if let Some(ticket) = &ticket {
            let before = ticket.before().and_then(|before| u32::try_from(before.run).ok());
            say(What::TicketTaken { ticket: ticket.place().ticket, after: before.filter(|student| *student > 0) })?;
        }
        let held = match locks.acquire(ticket.as_ref(), self.wait)? {
            Acquire::Granted(held) => held,
            Acquire::Held(_) => return say(What::Locked),
        };
        if held.is_some() {
            say(What::LockTaken)?;
        }
        let seats_left = tracker.seats_left()?;
        say(What::Saw { seats_left })?;
        if seats_left < 1 {
            return say(What::SoldOut);
        }
        say(What::Waiting { delay_ms: u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX) })?;
        sleep(self.delay)?;
        let (seats_before, seats_left) = tracker.book(self.number)?;
        say(What::Booked { seats_before, seats_left })?;
        drop(held);
        Ok(())
    }
}
