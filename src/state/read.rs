//! Reading without a lock.
//!
//! The state file is replaced whole and is never ahead of the disk, so one read of it is one consistent, durable
//! state. Where it is missing or unusable (after a power cut, until the next change), the ledger itself is added up.
//! A reader may see a booking a moment before its answer is given.

use super::{
    files::TripFiles,
    ledger::{Ledger, Mark},
    line::Line,
    state_file::State,
};
use crate::{
    booking::{Roster, Totals},
    dir::Access,
    error::{Error, Result},
};

/// How often a ledger may be healed under a reader's eyes before it gives up.
const ATTEMPTS: usize = 100;

/// The sums of a trip that is there.
pub(super) fn totals(files: &TripFiles) -> Result<Totals> {
    let totals = match State::read(files)? {
        Some(state) if files.dir.stat(&files.ledger)?.is_some() => state.totals,
        _ => {
            let ledger = open(files)?;
            ledger.verify(Mark::START, ledger.size()?)?.end.totals
        }
    };
    if totals.added.is_none() {
        return Err(Error::NoSuchTrip(files.trip.clone()));
    }
    Ok(totals)
}

/// The trip with its bookings: the ledger's first `revision` lines, as many as the state names.
pub(super) fn roster(files: &TripFiles) -> Result<Roster> {
    for _ in 0..ATTEMPTS {
        let state = State::read(files)?;
        let ledger = open(files)?;
        let size = match state {
            // Healed between the two reads.
            Some(state) if state.generation < ledger.generation() => continue,
            Some(state) => state.durable,
            None => ledger.size()?,
        };
        let mut roster = Roster::default();
        let mut broken = Ok(());
        let verified = ledger.verify_each(Mark::START, size, |offset, bytes| {
            let applied = Line::decode(bytes)
                .and_then(|line| roster.apply(&line.event, line.fence).map_err(str::to_owned))
                .map_err(|why| ledger.corrupt(offset, why));
            if broken.is_ok() {
                broken = applied;
            }
        })?;
        broken?;
        if state.is_some() && verified.end.offset < size {
            return Err(ledger.corrupt(verified.end.offset, "a bad line among those that were on disk"));
        }
        if roster.totals().added.is_none() {
            return Err(Error::NoSuchTrip(files.trip.clone()));
        }
        return Ok(roster);
    }
    Err(Error::io(
        "read",
        files.dir.path_of(&files.ledger),
        std::io::Error::other("it is being replaced again and again"),
    ))
}

fn open(files: &TripFiles) -> Result<Ledger> {
    if let Some(ledger) = Ledger::open(&files.dir, &files.ledger, &files.trip, Access::Read)? {
        return Ok(ledger);
    }
    check_never_a_trip(files)?;
    Err(Error::NoSuchTrip(files.trip.clone()))
}

/// A name without a ledger never was a trip. But a state is written after the ledger has its name, and ledgers are
/// never removed: where there is a state without a ledger, somebody lost the ledger, and with it the bookings.
pub(super) fn check_never_a_trip(files: &TripFiles) -> Result<()> {
    if files.dir.stat(&files.state)?.is_none() {
        return Ok(());
    }
    let why = match State::read(files)? {
        Some(state) => format!("the ledger is missing, and {} bytes were on disk", state.durable),
        None => "the ledger is missing, and there was one".to_owned(),
    };
    Err(Error::Corrupt { path: files.dir.path_of(&files.ledger), offset: 0, why })
}
