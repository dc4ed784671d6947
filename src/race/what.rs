//! What can happen to a student, as the tale and the JSON tell it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that happened to a student.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// It wants the trip.
    Checking,
    /// It stands in line for the trip's lock, which serves in the order of the tickets.
    TicketTaken {
        /// Its place in the line, from 1.
        ticket: u64,
        /// Who took the ticket right before it, if anybody did.
        after: Option<u32>,
    },
    /// It holds the trip's lock from here on.
    LockTaken,
    /// Somebody else holds the lock.
    Locked,
    /// The check.
    Saw {
        /// What the tracker said.
        seats_left: i64,
    },
    /// Between check and act.
    Waiting {
        /// How long, in milliseconds.
        delay_ms: u64,
    },
    /// The act.
    Booked {
        /// What the tracker said this time.
        seats_before: i64,
        /// What was written to it.
        seats_left: i64,
    },
    /// The check saw no seat.
    SoldOut,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trip = super::TRIP;
        match *self {
            Self::Checking => write!(f, "checking trip {trip} …"),
            Self::TicketTaken { ticket, after: None } => write!(f, "takes ticket {ticket}"),
            Self::TicketTaken { ticket, after: Some(student) } => {
                write!(f, "takes ticket {ticket}, after student {student}")
            }
            Self::LockTaken => write!(f, "takes the lock of trip {trip}"),
            Self::Locked => write!(f, "trip {trip} is locked, try later"),
            Self::Saw { seats_left } => write!(f, "sees {}", Seats(seats_left)),
            Self::Waiting { delay_ms } => write!(f, "waits {delay_ms} ms"),
            Self::Booked { seats_before, seats_left } => {
                write!(f, "booked: {} before, {seats_left} now", Seats(seats_before))
            }
            Self::SoldOut => f.write_str("sold out"),
        }
    }
}

/// "1 seat", "2 seats".
pub(super) struct Seats(pub(super) i64);

impl fmt::Display for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} seat{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}
