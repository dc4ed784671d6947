//! Trips, seats and the rules of booking. Pure: no clock, no files, no locks.
//!
//! A trip is the sum of its [`Event`]s. [`decide`] says which event a [`Change`] comes to, [`Totals::after`] adds it up.

mod roster;

use serde::{Deserialize, Serialize};

use crate::{
    lock::Fence,
    name::{RequestId, Student},
};

pub use roster::Roster;

/// What somebody wants to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make the trip, with this many seats.
    Add {
        /// At least 1.
        seats: u32,
    },
    /// Book seats. A student has at most one booking on a trip.
    Book {
        /// Who.
        student: Student,
        /// How many, at least 1.
        seats: u32,
    },
    /// Give the student's seats back.
    Cancel {
        /// Whose.
        student: Student,
    },
    /// Change the number of seats.
    Resize {
        /// At least 1, and at least what is booked.
        seats: u32,
    },
    /// Remove the trip and all its bookings.
    Remove,
}

impl Change {
    /// The word for it in the ledger and in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Book { .. } => "book",
            Self::Cancel { .. } => "cancel",
            Self::Resize { .. } => "resize",
            Self::Remove => "remove",
        }
    }

    /// Whose booking it is about, if it is about one.
    pub fn student(&self) -> Option<&Student> {
        match self {
            Self::Book { student, .. } | Self::Cancel { student } => Some(student),
            Self::Add { .. } | Self::Resize { .. } | Self::Remove => None,
        }
    }

    /// How many seats it names, if it names any.
    pub fn seats(&self) -> Option<u32> {
        match self {
            Self::Add { seats } | Self::Book { seats, .. } | Self::Resize { seats } => Some(*seats),
            Self::Cancel { .. } | Self::Remove => None,
        }
    }
}

/// A change and the id that makes its retry harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub change: Change,
    /// Given by the caller: the answer is kept for 30 days, a refusal's too. Without one, an id is generated for the
    /// "outcome uncertain" message alone, and a refusal leaves no trace.
    pub id: Option<RequestId>,
}

impl Request {
    /// A request without an id of its own.
    pub fn new(change: Change) -> Self {
        Self { change, id: None }
    }

    /// The same with an id.
    #[must_use]
    pub fn with_id(self, id: RequestId) -> Self {
        Self { id: Some(id), ..self }
    }
}

/// Why a rule refused a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Fewer seats are left than were asked for.
    SoldOut,
    /// The student has a booking.
    AlreadyBooked {
        /// Of how many seats.
        booked: u32,
    },
    /// The student has none.
    NoBooking,
    /// There is a trip of that name.
    TripExists,
    /// More seats are booked than the trip would have.
    BelowBooked {
        /// How many are booked.
        booked: u32,
    },
    /// The request id was used for something else.
    RequestIdReused,
}

impl Refusal {
    /// The word for it in the ledger and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::SoldOut => "sold_out",
            Self::AlreadyBooked { .. } => "already_booked",
            Self::NoBooking => "no_booking",
            Self::TripExists => "trip_exists",
            Self::BelowBooked { .. } => "below_booked",
            Self::RequestIdReused => "request_id_reused",
        }
    }

    /// How many seats are booked that stand in the way, where that is the reason.
    pub fn booked(self) -> Option<u32> {
        match self {
            Self::AlreadyBooked { booked } | Self::BelowBooked { booked } => Some(booked),
            Self::SoldOut | Self::NoBooking | Self::TripExists | Self::RequestIdReused => None,
        }
    }

    /// The refusal of that word; the inverse of [`Refusal::word`].
    pub fn from_word(word: &str, booked: Option<u32>) -> Option<Self> {
        Some(match (word, booked) {
            ("sold_out", None) => Self::SoldOut,
            ("already_booked", Some(booked)) => Self::AlreadyBooked { booked },
            ("no_booking", None) => Self::NoBooking,
            ("trip_exists", None) => Self::TripExists,
            ("below_booked", Some(booked)) => Self::BelowBooked { booked },
            ("request_id_reused", None) => Self::RequestIdReused,
            _ => return None,
        })
    }
}

/// What happened: a line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The trip was made.
    Added {
        /// With this many seats.
        seats: u32,
    },
    /// A student booked.
    Booked {
        /// Who.
        student: Student,
        /// How many seats.
        seats: u32,
    },
    /// A student's booking was cancelled.
    Cancelled {
        /// Whose.
        student: Student,
        /// How many seats became free.
        seats: u32,
    },
    /// The trip has another number of seats.
    Resized {
        /// This many.
        seats: u32,
    },
    /// The trip and its bookings are gone.
    Removed,
    /// Nothing changed.
    Refused {
        /// What was wanted.
        change: Change,
        /// Why not.
        refusal: Refusal,
    },
    /// The last lines are one batch, and all of it is here.
    Batch {
        /// How many lines before this one belong to it.
        count: u64,
    },
}

impl Event {
    /// The word for it in the ledger.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Added { .. } => "added",
            Self::Booked { .. } => "booked",
            Self::Cancelled { .. } => "cancelled",
            Self::Resized { .. } => "resized",
            Self::Removed => "removed",
            Self::Refused { .. } => "refused",
            Self::Batch { .. } => "batch",
        }
    }

    /// Whether this is what asking for `change` came to, in this or an earlier attempt.
    pub fn answers(&self, change: &Change) -> bool {
        match (self, change) {
            (Self::Added { seats }, Change::Add { seats: wanted })
            | (Self::Resized { seats }, Change::Resize { seats: wanted }) => seats == wanted,
            (Self::Booked { student, seats }, Change::Book { student: who, seats: wanted }) => {
                student == who && seats == wanted
            }
            (Self::Cancelled { student, .. }, Change::Cancel { student: who }) => student == who,
            (Self::Removed, Change::Remove) => true,
            (Self::Refused { change: refused, .. }, change) => refused == change,
            _ => false,
        }
    }
}

/// A trip's sums: all that a decision needs besides the one student's booking. Constant in size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// How many seats the trip has; 0 once it is removed.
    pub seats: u32,
    /// How many of them are free.
    pub seats_left: u32,
    /// How many bookings hold the others.
    pub bookings: u64,
    /// How many events these are the sum of.
    pub revision: u64,
    /// The fence of the last of them.
    pub fence: Fence,
    /// The revision at which the trip was made, or `None` once it is removed. Bookings of a lower revision belong to
    /// an earlier trip of the name.
    pub added: Option<u64>,
}

impl Totals {
    /// Before the first event.
    pub const NOTHING: Self = Self { seats: 0, seats_left: 0, bookings: 0, revision: 0, fence: Fence(0), added: None };

    /// The sums after one more event.
    ///
    /// # Errors
    /// The rule that the event breaks: such an event was never decided by [`decide`].
    pub fn after(&self, event: &Event, fence: Fence) -> Result<Self, &'static str> {
        let revision = self.revision + 1;
        if fence < self.fence {
            return Err("its fence is smaller than the one before");
        }
        let next = Self { revision, fence, ..*self };
        let open = self.added.is_some();
        Ok(match event {
            Event::Added { seats } if !open => {
                Self { seats: *seats, seats_left: *seats, bookings: 0, added: Some(revision), ..next }
            }
            Event::Added { .. } => return Err("it adds a trip that is there"),
            Event::Refused { .. } | Event::Batch { .. } => next,
            _ if !open => return Err("it changes a trip that is not there"),
            Event::Booked { seats, .. } => Self {
                seats_left: self.seats_left.checked_sub(*seats).ok_or("it books more seats than are left")?,
                bookings: self.bookings + 1,
                ..next
            },
            Event::Cancelled { seats, .. } => Self {
                seats_left: self
                    .seats_left
                    .checked_add(*seats)
                    .filter(|left| *left <= self.seats)
                    .ok_or("it frees more seats than the trip has")?,
                bookings: self.bookings.checked_sub(1).ok_or("it cancels a booking that is not there")?,
                ..next
            },
            Event::Resized { seats } => Self {
                seats: *seats,
                seats_left: seats.checked_sub(self.booked()).ok_or("it resizes below what is booked")?,
                ..next
            },
            Event::Removed => Self { seats: 0, seats_left: 0, bookings: 0, added: None, ..next },
        })
    }

    /// How many seats are booked.
    pub fn booked(&self) -> u32 {
        self.seats - self.seats_left
    }
}

/// What a change comes to, given the trip's sums and how many seats that student has booked.
///
/// Every change but [`Change::Add`] wants a trip that is there; the caller has seen to that.
pub fn decide(totals: &Totals, change: &Change, booked: Option<u32>) -> Event {
    let refuse = |refusal| Event::Refused { change: change.clone(), refusal };
    match change {
        Change::Add { .. } if totals.added.is_some() => refuse(Refusal::TripExists),
        Change::Add { seats } => Event::Added { seats: *seats },
        Change::Book { student, seats } => match booked {
            Some(booked) => refuse(Refusal::AlreadyBooked { booked }),
            None if *seats > totals.seats_left => refuse(Refusal::SoldOut),
            None => Event::Booked { student: student.clone(), seats: *seats },
        },
        Change::Cancel { student } => match booked {
            Some(seats) => Event::Cancelled { student: student.clone(), seats },
            None => refuse(Refusal::NoBooking),
        },
        Change::Resize { seats } if *seats < totals.booked() => {
            refuse(Refusal::BelowBooked { booked: totals.booked() })
        }
        Change::Resize { seats } => Event::Resized { seats: *seats },
        Change::Remove => Event::Removed,
    }
}
