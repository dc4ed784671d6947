//! Locks for bookings and jobs that separate operating-system processes share.
//!
//! Two students book the last seat at once; both see "1 seat left"; both succeed. triplock ends that race: a booking
//! takes the trip's exclusive lock, changes the trip's state, and is answered once it would survive a power cut. It
//! needs a directory and nothing else: no daemon, no server. When one machine is not enough, the same runs on a server.
//!
//! ```
//! use triplock::{Acquire, Change, Name, Refusal, Request, StateDir, Store, Student, Wait};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let store = Store::open(StateDir::open(directory.path(), false)?);
//! let trip: Name = "1".parse()?;
//! let _ = store.submit(&trip, &Request::new(Change::Add { seats: 1 }), Wait::Forever)?;
//!
//! // Any number of threads and processes may do this at once.
//! let book = |student: &str| -> Result<_, Box<dyn std::error::Error>> {
//!     let student: Student = student.parse()?;
//!     Ok(store.submit(&trip, &Request::new(Change::Book { student, seats: 1 }), Wait::Forever)?)
//! };
//! match book("1")? {
//!     Acquire::Granted(answer) => assert_eq!((answer.refusal(), answer.seats_left), (None, 0)),
//!     Acquire::Held(holder) => println!("trip 1 is locked, try later: {holder:?}"),
//! }
//! let second = book("2")?.granted().expect("waited for ever");
//! assert_eq!(second.refusal(), Some(Refusal::SoldOut));
//! # Ok(())
//! # }
//! ```
//!
//! - [`Store`]: the trips of a directory. [`Store::submit`] for one change; [`Store::lock`] to look before deciding.
//! - [`ServerTrips`]: the trips of a Redis or PostgreSQL server, for many hosts; both are [`Trips`].
//! - [`lock`]: the locks themselves, one trait and a type for each back end, for whatever else needs one.
//! - [`booking`]: the rules, without any I/O.
//! - [`race`]: the race, and what each lock makes of it.
//!
//! Busy ([`Acquire::Held`]), refused ([`Answer::refusal`]) and broken ([`Error`]) are three things, in types and in
//! exit codes.

pub mod booking;
mod check;
mod cli;
pub mod clock;
#[doc(hidden)]
pub mod command;
mod config;
mod crontab;
mod dir;
mod doctor;
mod duration;
mod error;
pub mod exit;
mod flock;
mod held;
mod install;
pub mod job;
pub mod lock;
mod manual;
mod name;
mod output;
mod process;
mod queue;
pub mod race;
mod schedule;
mod sealed;
pub mod state;
mod stderr;
mod store;
mod update;

pub use booking::{Change, Event, Refusal, Request};
pub use dir::{Environment, StateDir};
pub use error::{Error, Result, ServerTrouble};
pub use lock::{Acquire, Wait};
pub use name::{InvalidName, MAX_LEN, Name, RequestId, Student};
pub use state::{Answer, LockedTrip, Store, Trips};
pub use store::{ServerTrips, StoreUrl};

/// The version of every file and every JSON object that this triplock writes; a newer one is refused.
pub const FORMAT: u64 = 1;
