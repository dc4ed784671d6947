//! The race for the last seat, for real, and the locks that end it.
//!
//! # The race
//!
//! A tracker says that trip 1 has one seat. Two students start at the same moment, and each does three things:
//!
//! 1. **check**: read how many seats are left;
//! 2. **wait** a random while, as a real program waits for a form, a payment, a disk;
//! 3. **act**: if the check saw a seat, read the count again, write it back less one, and add a booking.
//!
//! Each step alone is harmless. What fails is the time between them:
//!
//! ```text
//!              student 1                    student 2                  seats left
//!     0 ms     check: sees 1 seat           check: sees 1 seat              1
//!   412 ms     act: 1 - 1, books                                            0
//!   873 ms                                  act: 0 - 1, books              -1
//! ```
//!
//! Student 2 acts on what was true 873 ms ago. It saw a seat, nobody told it that the seat is gone, and so one seat is
//! sold twice: `oversold`. Reading the count again does not help, because the *decision* was taken at the check. And
//! if two students act at the very same moment, both may read 1 and both write 0: two bookings, and the count went
//! down once. That is a `lost update`; here it hides behind `oversold` unless there are seats enough for everybody.
//!
//! The race needs no malice and no second processor, only that the students overlap. It is a matter of timing, and
//! timing is what nobody promises: the same program may be right a thousand times.
//!
//! # Why the usual listing cannot show it
//!
//! Lessons like to print this race in JavaScript: each student awaits a random delay and then runs
//! `if (seats > 0) { seats -= 1; … }`. Printed below it are two bookings and a count of -1. That cannot happen. After
//! the `await`, check and decrement run in one turn of the event loop: nothing else runs until the turn ends, so the
//! second student's check comes after the first one's decrement, and sees 0. An event loop's turn *is* a lock. The
//! race appears only when something lets others in between check and act: an `await` at that place, a second thread,
//! a second process. So here the wait stands between check and act, and the students are real processes.
//!
//! # How it ends
//!
//! Check, wait and act become one step that only one student at a time can be in: take the trip's lock, check, wait,
//! act, release it. Who finds it taken is told "trip 1 is locked, try later", or waits. The students' code is the same
//! with and without; the lock is the only difference. In a queue each takes a ticket first, everybody is served, strictly
//! in the order of the tickets, and whoever comes after the last seat hears "sold out". But the lock must be one that *all* students see:
//!
//! | lock | threads of one process | separate processes | separate hosts |
//! |---|---|---|---|
//! | `none` | unsafe | unsafe | unsafe |
//! | `memory`, a map in the process ([`MemoryLock`](crate::lock::MemoryLock)) | safe | **unsafe**: each process has a map of its own | unsafe |
//! | `file`, flock(2) ([`FileLock`](crate::lock::FileLock)) | safe | safe | **unsafe**: each host has a file of its own |
//! | `queue`, the same with a line in front of it ([`QueueLock`](crate::lock::QueueLock)) | safe, in order | safe, in order | **unsafe**: each host has a line of its own |
//! | `redis`, a lease of a server ([`LeasedLock`](crate::lock::LeasedLock)) | safe | safe | safe |
//! | `postgres`, a row `FOR UPDATE` ([`PostgresLock`](crate::lock::PostgresLock)) | safe | safe | safe |
//!
//! Hosts are shown by processes that share nothing where a lock could be but the store's server: each has a state
//! directory of its own, so each opens a lock file that no other student ever opens, as on machines with disks of their
//! own. All of them change the one tracker, which stands for the data that such machines do share: a database without
//! a lock, an API, a file server. (It lies in a directory that all of them can read; they could put a lock file there
//! as well, but only because they are not hosts.)
//!
//! A lock on a server has a name that no other race and no trip has, and nothing of it is left there afterwards.
//!
//! The students meet at a gate that opens for all of them at once, and by default they wait at least 100 ms, so that
//! everybody's check comes before anybody's act. The tracker lies in a fresh private directory that is removed
//! afterwards.
//!
//! ```
//! use triplock::{lock::Wait, race::{Delay, LockKind, Place, Race, Verdict}};
//!
//! let race = Race { students: 2, seats: 1, delay: Delay::from_millis(200, 300)?, ..Race::default() };
//! let unlocked = race.run(LockKind::None, Place::Threads)?;
//! assert_eq!((unlocked.bookings.len(), unlocked.seats_left), (2, -1));
//! assert_eq!(unlocked.verdict(), Verdict::Oversold);
//!
//! let locked = race.run(LockKind::Memory, Place::Threads)?;
//! assert_eq!((locked.bookings.len(), locked.seats_left), (1, 0));
//! assert_eq!(locked.verdict(), Verdict::Safe);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod delay;
mod failure;
mod gathering;
mod line;
mod lock_kind;
mod locks;
mod matrix;
mod message;
mod moment;
mod plan;
mod processes;
mod report;
mod student;
mod tale;
mod threads;
mod tracker;
mod verdict;
mod what;

pub use delay::Delay;
pub use failure::RaceError;
pub use lock_kind::LockKind;
pub use matrix::Matrix;
pub use plan::{Place, Race};
pub use processes::Order;
pub use report::{Booking, Event, Report};
pub use tale::{Table, Tale};
pub use verdict::{Promise, Verdict};
pub use what::What;

/// The trip that everybody wants.
pub const TRIP: &str = "1";
