//! The script against the rules in Rust: whatever is asked, in whatever batches, both answer the same.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};

use proptest::prelude::*;

use super::{Server, name};
use crate::{
    booking::{Change, Event, Refusal, Roster},
    error::Error,
    lock::{Fence, Until},
    name::{RequestId, RequestIds},
    state::{Answer, Prepared},
    store::Session,
};

/// A submission: requests, each with one of a few ids or none of its own; and whether the last one is made again as well,
/// as after an uncertain outcome.
#[derive(Debug, Clone)]
struct Step {
    requests: Vec<(Change, Option<u8>)>,
    again: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let student = (0..5u8).prop_map(|n| n.to_string().parse().unwrap()).boxed();
    let change = prop_oneof![
        2 => (1..8u32).prop_map(|seats| Change::Add { seats }),
        8 => (student.clone(), 1..4u32).prop_map(|(student, seats)| Change::Book { student, seats }),
        4 => student.prop_map(|student| Change::Cancel { student }),
        2 => (1..8u32).prop_map(|seats| Change::Resize { seats }),
        1 => Just(Change::Remove),
    ];
    let request = (change, proptest::option::of(0..12u8));
    let requests =
        prop_oneof![3 => prop::collection::vec(request.clone(), 1..2), 1 => prop::collection::vec(request, 2..12)];
    let step = (requests, proptest::bool::weighted(0.2)).prop_map(|(requests, again)| Step { requests, again });
    prop::collection::vec(step, 1..25)
}

/// What an id's key holds.
#[derive(Debug, Clone)]
struct Recorded {
    event: Event,
    revision: u64,
    seats_left: u32,
}

/// The trip as `crate::state` keeps it in files: its draft, without the files.
#[derive(Default)]
struct Model {
    roster: Roster,
    ids: HashMap<RequestId, Recorded>,
}

/// What of an answer does not depend on the clock.
#[derive(Debug, PartialEq)]
struct Expected {
    event: Event,
    revision: Option<u64>,
    seats_left: u32,
    request_id: Option<RequestId>,
    replayed: bool,
}

impl Model {
    /// `None`: no such trip.
    fn take(
        &mut self,
        request: &Prepared,
        retry: bool,
        now: &mut HashSet<RequestId>,
        fence: Fence,
    ) -> Option<Expected> {
        let id = &request.id;
        let seats_left = self.roster.totals().seats_left;
        if request.given || retry {
            if let Some(recorded) = self.ids.get(id) {
                let replayed = !retry || now.contains(id);
                return Some(if recorded.event.answers(&request.change) {
                    let Recorded { event, revision, seats_left } = recorded.clone();
                    Expected { event, revision: Some(revision), seats_left, request_id: Some(id.clone()), replayed }
                } else {
                    let event = Event::Refused { change: request.change.clone(), refusal: Refusal::RequestIdReused };
                    Expected { event, revision: None, seats_left, request_id: Some(id.clone()), replayed: false }
                });
            }
        }
        if self.roster.totals().added.is_none() && !matches!(request.change, Change::Add { .. }) {
            return None;
        }
        let event = self.roster.decide(&request.change);
        if matches!(event, Event::Refused { .. }) && !request.given {
            return Some(Expected { event, revision: None, seats_left, request_id: None, replayed: false });
        }
        self.roster.apply(&event, fence).unwrap();
        let (revision, seats_left) = (self.roster.totals().revision, self.roster.totals().seats_left);
        self.ids.insert(id.clone(), Recorded { event: event.clone(), revision, seats_left });
        now.insert(id.clone());
        Some(Expected { event, revision: Some(revision), seats_left, request_id: Some(id.clone()), replayed: false })
    }
}

/// One submission to both.
fn submit(session: &mut dyn Session, model: &mut Model, requests: &[Prepared], retry: bool) {
    let trip = name("1");
    let before = model.roster.totals().fence;
    let answers = session.submit(&trip, requests, retry, Until::Now).unwrap().granted().unwrap();
    assert_eq!(answers.len(), requests.len());
    // What was decided now was decided under one fence.
    let of_now = |answer: &&Answer| answer.fence > before;
    let fence = answers.iter().flatten().find(of_now).map_or(Fence(before.0 + 1), |answer| answer.fence);
    let mut now = HashSet::new();
    for (request, answer) in requests.iter().zip(answers) {
        let expected = model.take(request, retry, &mut now, fence);
        let found = match answer {
            Ok(answer) => {
                assert!(answer.fence == fence || answer.fence <= before, "{answer:?}");
                let Answer { event, revision, seats_left, request_id, replayed, .. } = answer;
                Some(Expected { event, revision, seats_left, request_id, replayed })
            }
            Err(Error::NoSuchTrip(_)) => None,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(found, expected, "{request:?}, retry: {retry}");
    }
    let there = model.roster.totals().added.is_some();
    assert_eq!(session.trip(&trip).unwrap(), there.then_some(*model.roster.totals()));
    assert_eq!(session.roster(&trip).unwrap(), there.then(|| model.roster.clone()));
    let listed = there.then(|| (trip, *model.roster.totals()));
    assert_eq!(session.trips().unwrap(), listed.into_iter().collect::<Vec<_>>());
}

#[test]
fn the_script_decides_as_the_rules_do() {
    let Some(server) = Server::start() else { return };
    let session = RefCell::new(server.session());
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    config.cases = config.cases.max(256);
    proptest!(config, |(steps in steps())| {
        server.cli(&["FLUSHALL"]);
        let mut session = session.borrow_mut();
        let mut model = Model::default();
        let mut ids = RequestIds::default();
        for step in steps {
            let prepared = |(change, id): (Change, Option<u8>)| Prepared {
                change,
                id: id.map_or_else(|| ids.next().unwrap(), |id| format!("r{id}").parse().unwrap()),
                given: id.is_some(),
            };
            let requests: Vec<_> = step.requests.into_iter().map(prepared).collect();
            submit(&mut **session, &mut model, &requests, false);
            if step.again {
                submit(&mut **session, &mut model, &requests, true);
            }
        }
    });
}

#[test]
fn a_batch_of_thousands_is_one_step() {
    let Some(server) = Server::start() else { return };
    let mut session = server.session();
    let mut model = Model::default();
    let mut ids = RequestIds::default();
    let mut prepared = |change| Prepared { change, id: ids.next().unwrap(), given: false };
    let mut requests = vec![prepared(Change::Add { seats: 9_000 })];
    let students = (0..10_000).map(|n| n.to_string().parse().unwrap());
    requests.extend(students.map(|student| prepared(Change::Book { student, seats: 1 })));
    submit(&mut *session, &mut model, &requests, false);
    assert_eq!(model.roster.totals().bookings, 9_000);
    submit(&mut *session, &mut model, &requests, true);
    assert_eq!(model.roster.totals().revision, 9_001);
}
