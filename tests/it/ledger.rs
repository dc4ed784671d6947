//! An independent judge of what triplock left on disk. It shares no code with the product: it reads the ledger and
//! the state as the JSON that they are and adds everything up itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::sandbox::Answer;

/// A trip's ledger, read and added up.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    pub(crate) generation: u64,
    lines: Vec<Line>,
    /// `sums[r]` is the sum of the first `r` lines.
    sums: Vec<Sum>,
    /// Each student's seats, after the last line.
    pub(crate) bookings: BTreeMap<String, u64>,
    /// Bytes after the last newline.
    pub(crate) torn: usize,
}

#[derive(Debug)]
struct Line {
    json: Value,
    /// Offset of the byte after its newline.
    end: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) seats: u64,
    pub(crate) seats_left: u64,
    pub(crate) bookings: u64,
}

/// The state file of a trip.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) generation: u64,
    pub(crate) revision: u64,
    pub(crate) durable: u64,
    pub(crate) fence: u64,
    pub(crate) sum: Sum,
}

impl Ledger {
    /// Reads `trips/TRIP.jsonl` and checks every rule that a ledger keeps at every moment.
    #[track_caller]
    pub(crate) fn read(state_dir: &Path, trip: &str) -> Self {
        let path = state_dir.join(format!("trips/{trip}.jsonl"));
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self::parse(path, &bytes).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    fn parse(path: PathBuf, bytes: &[u8]) -> Result<Self, String> {
        let mut ledger = Self {
            generation: 0,
            lines: Vec::new(),
            sums: vec![Sum::default()],
            bookings: BTreeMap::new(),
            torn: 0,
            path,
        };
        let mut sum = Sum::default();
        let mut fence = 0;
        let mut offset = 0;
        // A student's booking in the batch at hand, which counts once the batch's own line is there.
        let mut batch: usize = 0;
        for chunk in bytes.split_inclusive(|b| *b == b'\n') {
            let at = offset;
            offset += chunk.len() as u64;
            let Some(text) = chunk.strip_suffix(b"\n") else {
                ledger.torn = chunk.len();
                break;
            };
            let number = ledger.lines.len() as u64 + 1;
            let wrong = |what: &str| {
                let shown = String::from_utf8_lossy(text);
                format!("{}: line {number} at byte {at}: {what}\n{shown}", ledger.path.display())
            };
            let json: Value = serde_json::from_slice(text).map_err(|e| wrong(&e.to_string()))?;
            if !checksum_is_right(text) {
                return Err(wrong("wrong checksum"));
            }
            let count = |name: &str| json[name].as_u64().ok_or_else(|| wrong(&format!("no {name}")));
            if count("revision")? != number {
                return Err(wrong("wrong revision"));
            }
            if number == 1 {
                ledger.generation = count("generation")?;
                if count("format")? != 1 {
                    return Err(wrong("not format 1"));
                }
            }
            if count("fence")? < fence {
                return Err(wrong("the fence went down"));
            }
            fence = count("fence")?;
            if count("synced")? > at {
                return Err(wrong("it claims that it was durable before it was written"));
            }
            let student = || json["student"].as_str().map(str::to_owned).ok_or_else(|| wrong("no student"));
            match json["event"].as_str().ok_or_else(|| wrong("no event"))? {
                "added" => {
                    sum = Sum { seats: count("seats")?, seats_left: count("seats")?, bookings: 0 };
                    ledger.bookings.clear();
                }
                "booked" => {
                    let seats = count("seats")?;
                    sum.seats_left = sum.seats_left.checked_sub(seats).ok_or_else(|| wrong("oversold"))?;
                    sum.bookings += 1;
                    if ledger.bookings.insert(student()?, seats).is_some() {
                        return Err(wrong("this student has booked before"));
                    }
                }
                "cancelled" => {
                    let freed = ledger.bookings.remove(&student()?);
                    if freed != Some(count("seats")?) {
                        return Err(wrong(&format!("cancels what is not booked ({freed:?})")));
                    }
                    sum.seats_left += count("seats")?;
                    sum.bookings -= 1;
                }
                "resized" => {
                    let booked = sum.seats - sum.seats_left;
                    sum.seats = count("seats")?;
                    sum.seats_left = sum.seats.checked_sub(booked).ok_or_else(|| wrong("below what is booked"))?;
                }
                "removed" => {
                    sum = Sum::default();
                    ledger.bookings.clear();
                }
                "refused" | "batch" => {}
                other => return Err(wrong(&format!("unknown event {other}"))),
            }
            if json["event"] == "batch" {
                if count("count")? != batch as u64 {
                    return Err(wrong(&format!("a batch of {batch} lines")));
                }
                batch = 0;
            } else if json["in_batch"] == true {
                batch += 1;
            } else if batch > 0 {
                return Err(wrong("a line inside a batch"));
            }
            if count("seats_left")? != sum.seats_left {
                return Err(wrong(&format!("seats_left is {}", sum.seats_left)));
            }
            ledger.lines.push(Line { json, end: offset });
            ledger.sums.push(sum);
        }
        Ok(ledger)
    }

    /// How many lines it has.
    pub(crate) fn revision(&self) -> u64 {
        self.lines.len() as u64
    }

    /// The sum of everything.
    pub(crate) fn sum(&self) -> Sum {
        self.sums[self.lines.len()]
    }

    /// The offset at which line `revision` (from 1) ends; 0 for 0.
    pub(crate) fn end_of(&self, revision: u64) -> u64 {
        match usize::try_from(revision).unwrap() {
            0 => 0,
            revision => self.lines[revision - 1].end,
        }
    }

    /// Fails unless the state is the sum of this ledger's first `revision` lines.
    #[track_caller]
    pub(crate) fn agrees_with(&self, state: &State) {
        let revision = usize::try_from(state.revision).unwrap();
        assert!(
            revision <= self.lines.len(),
            "{}: the state is at revision {revision}, the ledger has {} lines",
            self.path.display(),
            self.lines.len()
        );
        assert_eq!(state.sum, self.sums[revision], "the state is not the sum of the first {revision} lines");
        assert_eq!(state.durable, self.end_of(state.revision), "durable is not the end of line {revision}");
        let fence = revision.checked_sub(1).map_or(0, |last| self.lines[last].json["fence"].as_u64().unwrap());
        assert_eq!(state.fence, fence, "the state's fence is not that of line {revision}");
        assert_eq!(state.generation, self.generation, "the state and the ledger differ in generation");
    }

    /// Fails unless every answer stands in the ledger exactly once, as it was given.
    #[track_caller]
    pub(crate) fn holds<'a>(&self, answers: impl IntoIterator<Item = &'a Answer>) {
        let mut lines_of: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, line) in self.lines.iter().enumerate() {
            if let Some(id) = line.json["request_id"].as_str() {
                lines_of.entry(id).or_default().push(at);
            }
        }
        for (id, lines) in &lines_of {
            assert_eq!(lines.len(), 1, "{}: request {id} stands in lines {lines:?} (from 0)", self.path.display());
        }
        let mut revisions = BTreeSet::new();
        for answer in answers {
            let lost = |why: &str| -> ! {
                panic!(
                    "{}: {why}\nanswer: {answer:?}\nlines: {}, torn bytes: {}",
                    self.path.display(),
                    self.lines.len(),
                    self.torn
                )
            };
            let Some(revision) = answer.revision else { lost("an answer without a revision") };
            let Some(line) = usize::try_from(revision).ok().and_then(|r| self.lines.get(r.checked_sub(1)?)) else {
                lost("an answer was LOST: the ledger is shorter")
            };
            let says = |name: &str| line.json[name].as_str();
            let (event, reason) = match answer.outcome.as_str() {
                done @ ("added" | "booked" | "cancelled" | "resized" | "removed") => (done, None),
                refused => ("refused", Some(refused)),
            };
            let same = says("event") == Some(event)
                && says("reason") == reason
                && says("student") == answer.student.as_deref()
                && (answer.request_id.is_none() || says("request_id") == answer.request_id.as_deref())
                && (answer.fence.is_none() || line.json["fence"].as_u64() == answer.fence)
                && (answer.seats_left.is_none() || line.json["seats_left"].as_u64() == answer.seats_left);
            if !same {
                lost(&format!("an answer was LOST: its line says {}", line.json));
            }
            if !answer.replayed && !revisions.insert(revision) {
                lost("two answers from one line");
            }
        }
    }
}

impl State {
    /// Reads `trips/TRIP.json`, which must be whole.
    #[track_caller]
    pub(crate) fn read(state_dir: &Path, trip: &str) -> Self {
        let path = state_dir.join(format!("trips/{trip}.json"));
        let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let json: Value = serde_json::from_slice(&text)
            .unwrap_or_else(|e| panic!("{}: {e}\n{}", path.display(), String::from_utf8_lossy(&text)));
        let count = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("no {name} in {json}"));
        assert_eq!(count("format"), 1);
        assert_eq!(json["trip"], trip);
        Self {
            generation: count("generation"),
            revision: count("revision"),
            durable: count("durable"),
            fence: count("fence"),
            sum: Sum { seats: count("seats"), seats_left: count("seats_left"), bookings: count("bookings") },
        }
    }
}

/// Judges a trip that nobody is changing: the ledger whole, the state its sum up to the last line that is durable.
#[track_caller]
pub(crate) fn judge(state_dir: &Path, trip: &str) -> Ledger {
    let state = State::read(state_dir, trip);
    let ledger = Ledger::read(state_dir, trip);
    assert_eq!(ledger.torn, 0, "{trip}: a torn tail was left");
    ledger.agrees_with(&state);
    assert_eq!(state.revision, ledger.revision(), "{trip}: the state is not current");
    ledger
}

/// `…,"crc":"0a1b2c3d"}`: the CRC-32 of all that stands before `,"crc"`.
fn checksum_is_right(line: &[u8]) -> bool {
    let Some(body) = line.len().checked_sub(18).map(|at| &line[..at]) else { return false };
    line[body.len()..] == *format!(",\"crc\":\"{:08x}\"}}", crc32fast::hash(body)).as_bytes()
}
