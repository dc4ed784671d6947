//! Everything that several hosts asked a store for, what they were told and when: what [`seat_rules`](crate::seat_rules)
//! and [`lease_rules`](crate::lease_rules) judge.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Mutex, PoisonError},
};

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::{
    answer::Answer,
    hosts::Host,
    sandbox::{Finished, Invocation},
};

/// A moment in nanoseconds of `CLOCK_BOOTTIME`, which all hosts of a test share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let whole = u64::try_from(now.tv_sec).expect("after the boot") * 1_000_000_000;
        Self(whole + u64::try_from(now.tv_nsec).expect("a fraction of a second"))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// What somebody wants of a trip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    Book { student: String, seats: u64 },
    Cancel { student: String },
}

/// One command: a request, asked for by a host, for the first time or again.
#[derive(Debug, Clone)]
#[allow(dead_code)] // Which host it was is for who reads a violation.
pub(crate) struct Asked {
    pub(crate) host: String,
    /// The request id: whoever asks again uses it again.
    pub(crate) id: String,
    pub(crate) wish: Wish,
    pub(crate) start: Moment,
    pub(crate) end: Moment,
    pub(crate) told: Told,
}

/// What a command said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// What happened, or by which rule it did not.
    Answer(Answer),
    /// That nothing was changed, with that exit code: busy, or the server could not be reached.
    NothingChanged(i32),
    /// That it does not know, or nothing, because it was killed.
    Unknown,
}

impl Told {
    /// What a booking command has said by its output and its exit code.
    #[track_caller]
    pub(crate) fn by(finished: &Finished) -> Self {
        match finished.code() {
            Some(0 | 3 | 4) => Self::Answer(finished.answer().unwrap_or_else(|| finished.complain("no answer"))),
            Some(code @ (69 | 75 | 78)) => Self::NothingChanged(code),
            Some(74) | None => Self::Unknown,
            Some(_) => finished.complain("no server is as broken as that"),
        }
    }
}

impl Wish {
    /// The command for it on that host.
    pub(crate) fn of(&self, host: &Host, trip: &str, id: &str) -> Invocation {
        match self {
            Self::Book { student, seats } => {
                host.triplock(["book", trip, "--student", student, "--seats", &seats.to_string(), "--request-id", id])
            }
            Self::Cancel { student } => host.triplock(["cancel", trip, "--student", student, "--request-id", id]),
        }
    }
}

/// Everything that was asked of one trip, and what the store has of it in the end.
#[derive(Debug, Default)]
pub(crate) struct TripHistory {
    pub(crate) seats: u64,
    /// In the order in which the commands ended.
    pub(crate) asked: Vec<Asked>,
    /// At the end every request is asked for once more, when all is well: what it came to.
    pub(crate) settled: Vec<Asked>,
    /// What the trip looks like then.
    pub(crate) seats_left: u64,
    pub(crate) revision: u64,
    /// Who has which seats.
    pub(crate) bookings: Vec<(String, u64)>,
}

/// Takes notes while hosts ask.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<Vec<Asked>>);

impl Notes {
    /// Asks once.
    #[track_caller]
    pub(crate) fn ask(&self, host: &Host, trip: &str, wish: &Wish, id: &str, wait: &str) -> Told {
        let start = Moment::now();
        let finished = wish.of(host, trip, id).wait(wait).run();
        let end = Moment::now();
        let told = Told::by(&finished);
        let asked = Asked {
            host: host.name().to_owned(),
            id: id.to_owned(),
            wish: wish.clone(),
            start,
            end,
            told: told.clone(),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        told
    }

    pub(crate) fn into_asked(self) -> Vec<Asked> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TripHistory {
    /// Asks for everything once more, by a host to which nothing happens any more, and looks at the trip.
    #[track_caller]
    pub(crate) fn settle(host: &Host, trip: &str, seats: u64, asked: Vec<Asked>) -> Self {
        let notes = Notes::default();
        let mut seen = BTreeSet::new();
        for Asked { id, wish, .. } in &asked {
            if seen.insert(id) {
                let told = notes.ask(host, trip, wish, id, "10");
                assert!(matches!(told, Told::Answer(_)), "all is well, and {id} is not answered: {told:?}");
            }
        }
        let shown = host.triplock(["trip", "show", trip, "--bookings"]).run();
        let mut lines = shown.exits(0).stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let number = |value: &Value| value.as_u64().expect("a number");
        let head = lines.next().expect("a trip");
        let bookings =
            lines.map(|line| (line["student"].as_str().expect("a student").to_owned(), number(&line["seats"])));
        Self {
            seats,
            asked,
            settled: notes.into_asked(),
            seats_left: number(&head["seats_left"]),
            revision: number(&head["revision"]),
            bookings: bookings.collect(),
        }
    }
}

/// A `triplock run` of a job that stamps a file as long as it lives.
#[derive(Debug, Clone)]
#[allow(dead_code)] // As above.
pub(crate) struct Run {
    pub(crate) host: String,
    /// What its job's stamps are known by.
    pub(crate) tag: String,
    pub(crate) start: Moment,
    pub(crate) end: Moment,
    /// `None`: it was killed.
    pub(crate) code: Option<i32>,
}

/// A sign of life of one process of a job.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub(crate) tag: String,
    pub(crate) fence: u64,
    pub(crate) at: Moment,
    /// The last thing the command did before it ended by itself.
    pub(crate) is_end: bool,
}

/// Which fences the server said were leased, at some moment between the two.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) begin: Moment,
    pub(crate) end: Moment,
    pub(crate) held: BTreeSet<u64>,
}

/// A line of the job's ledger.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    /// Whose words these are: host and process.
    pub(crate) by: (String, u64),
    pub(crate) event: RecordedEvent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RecordedEvent {
    Started { fence: u64 },
    Ended { fence: u64, outcome: String },
    NotRun { outcome: String },
}

/// Everything that became of one job.
#[derive(Debug, Default)]
pub(crate) struct JobHistory {
    pub(crate) runs: Vec<Run>,
    pub(crate) stamps: Vec<Stamp>,
    pub(crate) looks: Vec<Look>,
    /// The oldest first.
    pub(crate) ledger: Vec<Recorded>,
}

/// A rule that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation<R> {
    pub(crate) rule: R,
    pub(crate) what: String,
}

/// Fails with all that is wrong.
#[track_caller]
pub(crate) fn nothing_is_violated<R: fmt::Debug>(when: &str, violations: &[Violation<R>]) {
    let lines: Vec<_> = violations.iter().map(|found| format!("{:?}: {}", found.rule, found.what)).collect();
    assert!(lines.is_empty(), "{when}: {} rules broken\n{}", lines.len(), lines.join("\n"));
}
