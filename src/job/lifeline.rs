//! What keeps a job on a leased store alive: its guardian's end of the line to the wrapper.
//!
//! The wrapper holds the lease and renews it; the guardian, a process of its own between wrapper and job, ends the job
//! before the lease can pass on. It knows one number, the *deadline*: when the lease is over if it is never renewed
//! again, counted from before the request that renewed it, on `CLOCK_BOOTTIME`.
//!
//! ```text
//!                                   - (grace + margin)      - margin        deadline
//!     ──── renewed ────────────────────── TERM ────────────── KILL ──────────┤ then somebody else may have it
//! ```
//!
//! Each step, and what it prevents:
//!
//! 1. Every renewal sends the new deadline down the line. A wrapper that is slow, stopped, or cut off from the server
//!    sends none, and the guardian's timer goes off. It asks nobody: whoever it asked could be the one that hangs.
//! 2. The line ends when the wrapper does, also by KILL: then nobody will renew, and the job is ended at once.
//! 3. The wrapper sends a deadline that is over when the server said that the lease is somebody else's: KILL at once.
//! 4. The timer counts on `CLOCK_BOOTTIME`: a machine that slept over the deadline wakes up to a job that is ended, which a
//!    clock that stands still meanwhile would let run on.
//! 5. If the guardian is killed, the kernel kills the command with it (`PR_SET_PDEATHSIG`), whoever else was killed; the
//!    job's other processes become the wrapper's, which ends them: it is a subreaper too. A guardian
//!    that is only stopped is found out by the wrapper at `deadline - margin`. What gets past both at once, the fence
//!    stops.
//!
//! The margin is for what an end takes: waking up, finding every process, the kernel's work.

use std::{
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
    time::Duration,
};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::{clock::BootTime, process::Received};

/// How a lease's time is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// How long it lasts from each renewal.
    pub(crate) lease: Duration,
    /// How long the job has from the first signal until KILL.
    pub(crate) grace: Duration,
    /// How long before the deadline it must be dead.
    pub(crate) margin: Duration,
}

impl Terms {
    /// `kill_after`: the grace that was asked for; a quarter of the lease otherwise.
    ///
    /// # Errors
    /// Why the lease is too short for its grace, with the arithmetic.
    pub(crate) fn of(lease: Duration, kill_after: Option<Duration>) -> Result<Self, String> {
        let margin = (lease / 10).max(Duration::from_millis(250));
        let terms = Self { lease, grace: kill_after.unwrap_or(lease / 4), margin };
        let needed = terms.renewal().saturating_add(terms.grace).saturating_add(margin);
        if needed > lease {
            let seconds = |time: Duration| format!("{} s", (time.as_secs_f64() * 1e3).round() / 1e3);
            return Err(format!(
                "a lease of {} is too short for a grace of {}: it is renewed after a third ({}), and grace and margin ({}) \
                 come before its end: {} + {} + {} = {}; give a longer --lease or a shorter --kill-after",
                seconds(lease),
                seconds(terms.grace),
                seconds(terms.renewal()),
                seconds(margin),
                seconds(terms.renewal()),
                seconds(terms.grace),
                seconds(margin),
                seconds(needed),
            ));
        }
        Ok(terms)
    }

    /// How long after a renewal the next one is due.
    pub(crate) fn renewal(&self) -> Duration {
        self.lease / 3
    }
}

/// The guardian's end.
#[derive(Debug)]
pub(crate) struct Lifeline {
    line: UnixStream,
    timer: OwnedFd,
    terms: Terms,
    deadline: BootTime,
    /// The wrapper is gone.
    is_cut: bool,
    wrapper: Option<u32>,
}

impl Lifeline {
    pub(crate) fn new(line: UnixStream, terms: Terms, deadline: BootTime) -> io::Result<Self> {
        line.set_nonblocking(true)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        let wrapper = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        Ok(Self { line, timer, terms, deadline, is_cut: false, wrapper })
    }

    /// Whether a signal is for the job. The wrapper passes on what reaches it; what somebody sends to all of us at once, as
    /// systemd does, would reach the job once more for each of us.
    pub(crate) fn passes_on(&self, received: &Received) -> bool {
        self.is_cut || received.from_kernel || received.sender.is_none() || received.sender == self.wrapper
    }

    /// Readable when there is something to listen to, or it is time.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        // A line that is cut is readable for ever.
        [Some(self.timer.as_fd()), Some(self.line.as_fd()).filter(|_| !self.is_cut)].into_iter().flatten()
    }

    /// When the job must have its first signal.
    pub(crate) fn end_due(&self) -> BootTime {
        self.kill_due().before(self.terms.grace)
    }

    /// When it must have KILL.
    pub(crate) fn kill_due(&self) -> BootTime {
        self.deadline.before(self.terms.margin)
    }

    /// Sets the timer to what is due next, or stops it.
    pub(crate) fn arm(&mut self, due: Option<BootTime>) {
        // What is over goes off at once. (Zero would stop it.)
        let due = due.map_or(Duration::ZERO, |due| due.since_boot().max(Duration::from_nanos(1)));
        let it_value =
            Timespec { tv_sec: due.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: due.subsec_nanos().into() };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        // With a valid timer and time there is nothing that can fail.
        let timer = Itimerspec { it_interval, it_value };
        let _ = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &timer);
    }

    /// Takes what the wrapper has said meanwhile. Never sleeps.
    pub(crate) fn listen(&mut self) {
        let mut message = [0; Message::SIZE];
        loop {
            match self.line.read(&mut message) {
                Ok(Message::SIZE) => self.deadline = Message::decode(message),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // Messages are written whole, and so arrive.
                Ok(_) | Err(_) => {
                    self.is_cut = true;
                    return;
                }
            }
        }
    }

    /// Whether it is time for the first signal.
    pub(crate) fn job_must_end(&self) -> bool {
        self.is_cut || self.end_due().left().is_zero()
    }

    /// Whether it is time for KILL.
    pub(crate) fn job_must_be_dead(&self) -> bool {
        self.kill_due().left().is_zero()
    }

    /// Tells the wrapper what came of the job; when nobody hears it, it does not matter.
    pub(crate) fn tell(mut self, result: &[u8]) {
        let _ = self.line.set_nonblocking(false);
        let _ = self.line.write_all(result);
    }
}

/// A deadline, as the wrapper sends it: nanoseconds since the boot.
pub(super) struct Message;

impl Message {
    const SIZE: usize = 8;

    pub(super) fn encode(deadline: BootTime) -> [u8; Self::SIZE] {
        u64::try_from(deadline.since_boot().as_nanos()).unwrap_or(u64::MAX).to_le_bytes()
    }

    fn decode(message: [u8; Self::SIZE]) -> BootTime {
        BootTime::at(Duration::from_nanos(u64::from_le_bytes(message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_lease_has_room_for_renewal_grace_and_margin() {
        let terms = Terms::of(seconds(30.0), None).unwrap();
        assert_eq!((terms.grace, terms.margin, terms.renewal()), (seconds(7.5), seconds(3.0), seconds(10.0)));
        assert_eq!(Terms::of(seconds(2.0), None).unwrap().margin, seconds(0.25));
        assert!(Terms::of(seconds(1.0), None).is_ok(), "the shortest that can be asked for");
        let why = Terms::of(seconds(2.0), Some(seconds(5.0))).unwrap_err();
        assert!(why.contains("0.667 s + 5 s + 0.25 s = 5.917 s"), "{why}");
        assert!(Terms::of(seconds(30.0), Some(Duration::MAX)).is_err());
    }

    #[test]
    fn a_deadline_goes_down_the_line_and_a_cut_line_ends_the_job() {
        let (wrapper, guardian) = UnixStream::pair().unwrap();
        let terms = Terms::of(seconds(10.0), None).unwrap();
        let mut lifeline = Lifeline::new(guardian, terms, BootTime::now() + seconds(3.0)).unwrap();
        assert!(lifeline.job_must_end() && !lifeline.job_must_be_dead(), "grace and margin are 3.5 s");
        (&wrapper).write_all(&Message::encode(BootTime::now() + seconds(10.0))).unwrap();
        lifeline.listen();
        assert!(!lifeline.job_must_end());
        (&wrapper).write_all(&Message::encode(BootTime::at(Duration::ZERO))).unwrap();
        lifeline.listen();
        assert!(lifeline.job_must_be_dead(), "it is somebody else's");
        (&wrapper).write_all(&Message::encode(BootTime::now() + seconds(10.0))).unwrap();
        drop(wrapper);
        lifeline.listen();
        assert!(lifeline.job_must_end() && !lifeline.job_must_be_dead(), "the wrapper is gone, the lease is not");
    }
}
