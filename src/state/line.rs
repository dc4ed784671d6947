//! One line of a ledger: JSON that `jq` reads, ending in a checksum of all that stands before it.
//!
//! ```json
//! {"revision":2,"event":"booked","student":"7","seats":1,"request_id":"…","fence":2,"time":"…","seats_left":0,"synced":197,"crc":"0a1b2c3d"}
//! ```
//!
//! The fields' order is fixed, so the bytes of a line depend on its content alone. The first line of a ledger also
//! names the format, the generation and the trip; the generation is right-aligned in 20 columns, so that a healed
//! copy of the ledger moves no byte and every offset in it stays true.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::{
    booking::{Change, Event, Refusal},
    lock::Fence,
    name::{Name, RequestId, Student},
    sealed::{is_intact, seal},
};

/// No line of ours is longer, in bytes: three names of 128 and a dozen short fields.
pub(crate) const LONGEST: usize = 1024;

/// A line without its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) revision: u64,
    pub(crate) event: Event,
    /// Part of a batch: it counts once the batch's own line is there.
    pub(crate) in_batch: bool,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) fence: Fence,
    pub(crate) time: DateTime<Utc>,
    /// Seats left after the event.
    pub(crate) seats_left: u32,
    /// How many bytes of the ledger were known to be durable when the line was written.
    pub(crate) synced: u64,
    /// The first line's.
    pub(crate) head: Option<Head>,
}

/// What only the first line holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) generation: u64,
    pub(crate) trip: Name,
}

impl Line {
    /// Appends the line with its newline. `time` is the line's own, already formatted: a batch formats it once.
    pub(crate) fn encode(&self, time: &str, to: &mut Vec<u8>) {
        to.reserve(LONGEST);
        let start = to.len();
        match &self.head {
            Some(head) => encode_head(head, to),
            None => to.push(b'{'),
        }
        number(to, b"\"revision\":", self.revision);
        match &self.event {
            Event::Added { seats } => number(to, b",\"event\":\"added\",\"seats\":", (*seats).into()),
            Event::Resized { seats } => number(to, b",\"event\":\"resized\",\"seats\":", (*seats).into()),
            Event::Booked { student, seats } => {
                text(to, b",\"event\":\"booked\",\"student\":\"", student.as_str());
                number(to, b",\"seats\":", (*seats).into());
            }
            Event::Cancelled { student, seats } => {
                text(to, b",\"event\":\"cancelled\",\"student\":\"", student.as_str());
                number(to, b",\"seats\":", (*seats).into());
            }
            Event::Removed => to.extend_from_slice(b",\"event\":\"removed\""),
            Event::Refused { change, refusal } => {
                text(to, b",\"event\":\"refused\",\"change\":\"", change.word());
                text(to, b",\"reason\":\"", refusal.word());
                if let Some(student) = change.student() {
                    text(to, b",\"student\":\"", student.as_str());
                }
                if let Some(seats) = change.seats() {
                    number(to, b",\"seats\":", seats.into());
                }
                if let Some(booked) = refusal.booked() {
                    number(to, b",\"booked\":", booked.into());
                }
            }
            Event::Batch { count } => number(to, b",\"event\":\"batch\",\"count\":", *count),
        }
        if self.in_batch {
            to.extend_from_slice(b",\"in_batch\":true");
        }
        if let Some(id) = &self.request_id {
            text(to, b",\"request_id\":\"", id.as_str());
        }
        number(to, b",\"fence\":", self.fence.0);
        text(to, b",\"time\":\"", time);
        number(to, b",\"seats_left\":", self.seats_left.into());
        number(to, b",\"synced\":", self.synced);
        seal(to, start);
        to.push(b'\n');
    }

    /// The line in those bytes (without the newline), or what is wrong with them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if !is_intact(bytes) {
            return Err("the checksum does not match".to_owned());
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| format!("not a ledger line: {e}"))?;
        raw.lower()
    }
}

/// The `synced` of a line, without a look at the rest of it.
pub(crate) fn synced(bytes: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Synced {
        synced: u64,
    }
    serde_json::from_slice::<Synced>(bytes).ok().map(|line| line.synced)
}

/// The value of `"name":"value"` in a line; names and ids need no escapes.
pub(crate) fn text_field<'l>(line: &'l [u8], quoted_name: &memchr::memmem::Finder<'_>) -> Option<&'l [u8]> {
    let start = quoted_name.find(line)? + quoted_name.needle().len();
    let len = memchr::memchr(b'"', &line[start..])?;
    Some(&line[start..start + len])
}

fn encode_head(head: &Head, to: &mut Vec<u8>) {
    let (format, generation, trip) = (crate::FORMAT, head.generation, &head.trip);
    to.extend_from_slice(
        format!("{{\"format\":{format},\"generation\":{generation:>20},\"trip\":\"{trip}\",").as_bytes(),
    );
}

// The keys' lengths are known to the compiler, which copies them in a move or two: a call for each is what a batch
// would spend most of its time on.

#[inline]
fn number<const N: usize>(to: &mut Vec<u8>, key: &[u8; N], value: u64) {
    to.extend_from_slice(key);
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        // A digit fits a byte.
        #[allow(clippy::cast_possible_truncation)]
        let digit = (rest % 10) as u8;
        digits[at] = b'0' + digit;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[at..]);
}

/// `key` opens the quotes. Names, ids, words and times need no escapes.
#[inline]
fn text<const N: usize>(to: &mut Vec<u8>, key: &[u8; N], value: &str) {
    to.extend_from_slice(key);
    to.extend_from_slice(value.as_bytes());
    to.push(b'"');
}

/// A line as JSON has it.
#[derive(Deserialize)]
struct Raw<'l> {
    format: Option<u64>,
    generation: Option<u64>,
    trip: Option<Name>,
    revision: u64,
    #[serde(borrow)]
    event: Cow<'l, str>,
    #[serde(borrow)]
    change: Option<Cow<'l, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'l, str>>,
    student: Option<Student>,
    seats: Option<u32>,
    booked: Option<u32>,
    count: Option<u64>,
    #[serde(default)]
    in_batch: bool,
    request_id: Option<RequestId>,
    fence: u64,
    #[serde(with = "crate::clock::as_rfc3339")]
    time: DateTime<Utc>,
    seats_left: u32,
    synced: u64,
}

impl Raw<'_> {
    fn lower(self) -> Result<Line, String> {
        let word = self.event.into_owned();
        let lacks = |what: &str| format!("a {word:?} line without {what}");
        let seats = || self.seats.ok_or_else(|| lacks("seats"));
        let student = || self.student.clone().ok_or_else(|| lacks("a student"));
        let event = match &*word {
            "added" => Event::Added { seats: seats()? },
            "booked" => Event::Booked { student: student()?, seats: seats()? },
            "cancelled" => Event::Cancelled { student: student()?, seats: seats()? },
            "resized" => Event::Resized { seats: seats()? },
            "removed" => Event::Removed,
            "refused" => {
                let change = match self.change.as_deref() {
                    Some("add") => Change::Add { seats: seats()? },
                    Some("book") => Change::Book { student: student()?, seats: seats()? },
                    Some("cancel") => Change::Cancel { student: student()? },
                    Some("resize") => Change::Resize { seats: seats()? },
                    Some("remove") => Change::Remove,
                    _ => return Err(lacks("a known change")),
                };
                let reason = self.reason.as_deref().unwrap_or_default();
                let refusal = Refusal::from_word(reason, self.booked).ok_or_else(|| lacks("a known reason"))?;
                Event::Refused { change, refusal }
            }
            "batch" => Event::Batch { count: self.count.ok_or_else(|| lacks("a count"))? },
            _ => return Err(format!("an unknown event {word:?}")),
        };
        let head = match (self.format, self.generation, self.trip) {
            (Some(_), Some(generation), Some(trip)) => Some(Head { generation, trip }),
            (None, None, None) => None,
            _ => return Err("half a head".to_owned()),
        };
        Ok(Line {
            revision: self.revision,
            event,
            in_batch: self.in_batch,
            request_id: self.request_id,
            fence: Fence(self.fence),
            time: self.time,
            seats_left: self.seats_left,
            synced: self.synced,
            head,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::rfc3339;

    fn sample(event: Event) -> Line {
        Line {
            revision: 10,
            event,
            in_batch: false,
            request_id: Some("r-1".parse().unwrap()),
            fence: Fence(u64::MAX),
            time: "2026-11-23T20:25:19.123456+00:00".parse().unwrap(),
            seats_left: 0,
            synced: 12345,
            head: None,
        }
    }

    fn encoded(line: &Line) -> Vec<u8> {
        let mut bytes = Vec::new();
        line.encode(&rfc3339(line.time), &mut bytes);
        assert_eq!(bytes.pop(), Some(b'\n'));
        bytes
    }

    #[test]
    fn every_event_survives_a_round_trip() {
        let student: Student = "7".parse().unwrap();
        let refused = |change, refusal| Event::Refused { change, refusal };
        let events = [
            Event::Added { seats: 3 },
            Event::Booked { student: student.clone(), seats: u32::MAX },
            Event::Cancelled { student: student.clone(), seats: 1 },
            Event::Resized { seats: 9 },
            Event::Removed,
            Event::Batch { count: 2 },
            refused(Change::Book { student: student.clone(), seats: 2 }, Refusal::SoldOut),
            refused(Change::Book { student: student.clone(), seats: 2 }, Refusal::AlreadyBooked { booked: 5 }),
            refused(Change::Cancel { student }, Refusal::NoBooking),
            refused(Change::Add { seats: 1 }, Refusal::TripExists),
            refused(Change::Resize { seats: 1 }, Refusal::BelowBooked { booked: 4 }),
        ];
        for event in events {
            let line = sample(event);
            assert_eq!(Line::decode(&encoded(&line)), Ok(line));
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let good = encoded(&sample(Event::Added { seats: 3 }));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert!(Line::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_new_generation_moves_no_byte() {
        let with = |generation| {
            let head = Some(Head { generation, trip: "1".parse().unwrap() });
            encoded(&Line { head, ..sample(Event::Added { seats: 3 }) })
        };
        assert_eq!(with(9).len(), with(u64::MAX).len());
        assert_eq!(Line::decode(&with(10)).unwrap().head.unwrap().generation, 10);
    }
}
