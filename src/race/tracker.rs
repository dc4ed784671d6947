//! The state that the students share: a count that is read and replaced, and a list of bookings that only grows.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::moment::Moment;
use crate::error::{Error, Result};

const COUNT: &str = "tracker.json";
const BOOKINGS: &str = "bookings.jsonl";

/// A tracker in a directory of its own.
///
/// It is careful about everything except what the race is about: no reader sees half a count or half a booking,
/// whether there is a lock or not. Nothing is synced to disk, since a race need not survive a power cut.
#[derive(Debug)]
pub(super) struct Tracker {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Count {
    format: u64,
    trip: String,
    seats_left: i64,
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BookingLine {
    pub(super) student: u32,
    pub(super) at: Moment,
}

impl Tracker {
    /// Makes a tracker with that many seats and no bookings.
    pub(super) fn create(dir: &Path, seats: u32) -> Result<Self> {
        let tracker = Self::open(dir);
        tracker.replace_count(0, seats.into())?;
        let list = tracker.dir.join(BOOKINGS);
        File::create_new(&list).map_err(|source| Error::cannot_create(list, source))?;
        Ok(tracker)
    }

    /// The tracker that somebody made there.
    pub(super) fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// How many seats are left at this moment.
    pub(super) fn seats_left(&self) -> Result<i64> {
        let path = self.dir.join(COUNT);
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let count: Count =
            serde_json::from_slice(&bytes).map_err(|e| Error::io("understand", path, std::io::Error::other(e)))?;
        Ok(count.seats_left)
    }

    /// Reads the count, writes it back less one, and adds the booking; gives the count before and after. It does not
    /// look whether there is a seat: whoever calls it has checked.
    pub(super) fn book(&self, student: u32) -> Result<(i64, i64)> {
        let before = self.seats_left()?;
        let after = before - 1;
        self.replace_count(student, after)?;
        self.append(&BookingLine { student, at: Moment::now() })?;
        Ok((before, after))
    }

    /// Every booking, in the order of the list.
    pub(super) fn bookings(&self) -> Result<Vec<BookingLine>> {
        let path = self.dir.join(BOOKINGS);
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let parse =
            |line| serde_json::from_str(line).map_err(|e| Error::io("understand", &path, std::io::Error::other(e)));
        text.lines().map(parse).collect()
    }

    /// Replaces the file in one step by one that only this student writes.
    fn replace_count(&self, student: u32, seats_left: i64) -> Result<()> {
        let count = Count { format: crate::FORMAT, trip: super::TRIP.to_owned(), seats_left };
        let (fresh, path) = (self.dir.join(format!("tracker.{student}.new")), self.dir.join(COUNT));
        let bytes = serde_json::to_vec(&count).expect("a count is plain data");
        fs::write(&fresh, bytes).map_err(|e| Error::io("write", &fresh, e))?;
        fs::rename(&fresh, &path).map_err(|e| Error::io("replace", path, e))
    }

    /// One `O_APPEND` write of one line: the kernel puts it after whatever is there.
    fn append(&self, booking: &BookingLine) -> Result<()> {
        let mut line = serde_json::to_vec(booking).expect("a booking is plain data");
        line.push(b'\n');
        let path = self.dir.join(BOOKINGS);
        let list = File::options().append(true).open(&path);
        list.and_then(|mut list| list.write_all(&line)).map_err(|e| Error::io("append to", path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_booking_takes_a_seat_also_one_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let tracker = Tracker::create(dir.path(), 1).unwrap();
        assert_eq!(tracker.seats_left().unwrap(), 1);
        assert_eq!(tracker.book(1).unwrap(), (1, 0));
        assert_eq!(Tracker::open(dir.path()).book(2).unwrap(), (0, -1));
        let students: Vec<_> = tracker.bookings().unwrap().iter().map(|b| b.student).collect();
        assert_eq!(students, [1, 2]);
    }
}
