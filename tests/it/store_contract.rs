//! What trips promise, wherever they are kept. A new store joins with one line at the end.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use triplock::{
    Acquire, Answer, Change, Error, Name, Refusal, Request, ServerTrips, StateDir, Store, Trips, Wait,
    booking::{Event, Roster},
    lock::Fence,
};

use crate::{
    sandbox::{Invocation, Sandbox},
    servers::{Postgres, Redis},
};

/// A store that nobody else uses.
struct Site {
    sandbox: Sandbox,
    /// The server's URL, if it is on one.
    server: Option<String>,
}

impl Site {
    fn of_files() -> Self {
        Self { sandbox: Sandbox::new(), server: None }
    }

    fn of_server(url: &str) -> Self {
        Self { sandbox: Sandbox::new(), server: Some(url.to_owned()) }
    }

    /// As a process that begins now would open it.
    fn open(&self) -> Box<dyn Trips> {
        match &self.server {
            Some(url) => Box::new(ServerTrips::new(url.parse().unwrap())),
            None => Box::new(Store::open(StateDir::open(self.sandbox.state_dir(), false).unwrap())),
        }
    }

    fn triplock(&self, args: &[&str]) -> Invocation {
        let store = self.server.as_deref().unwrap_or("files");
        self.sandbox.triplock(["--store", store].iter().chain(args))
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn book(student: &str, seats: u32) -> Change {
    Change::Book { student: student.parse().unwrap(), seats }
}

fn cancel(student: &str) -> Change {
    Change::Cancel { student: student.parse().unwrap() }
}

fn with_id(change: Change, id: &str) -> Request {
    Request::new(change).with_id(id.parse().unwrap())
}

#[track_caller]
fn ask(trips: &dyn Trips, request: &Request) -> Answer {
    trips.submit(&name("1"), request, Wait::Forever).unwrap().granted().expect("waited for ever")
}

#[track_caller]
fn asked(trips: &dyn Trips, change: Change) -> Answer {
    ask(trips, &Request::new(change))
}

fn bookings(roster: &Roster) -> Vec<(String, u32)> {
    roster.bookings().map(|(student, seats)| (student.to_string(), seats)).collect()
}

fn seats_are_sold_once(site: &Site) {
    let trips = site.open();
    let missing = trips.submit(&name("1"), &Request::new(book("7", 1)), Wait::No);
    assert!(matches!(missing, Err(Error::NoSuchTrip(_))), "{missing:?}");
    assert!(trips.list().unwrap().is_empty());
    assert!(matches!(trips.show(&name("1")), Err(Error::NoSuchTrip(_))));

    assert_eq!(asked(&*trips, Change::Add { seats: 3 }).outcome(), "added");
    assert_eq!(asked(&*trips, Change::Add { seats: 9 }).refusal(), Some(Refusal::TripExists));
    let answer = asked(&*trips, book("7", 2));
    assert_eq!((answer.outcome(), answer.seats_left, answer.replayed), ("booked", 1, false));
    assert_eq!(asked(&*trips, book("7", 1)).refusal(), Some(Refusal::AlreadyBooked { booked: 2 }));
    assert_eq!(asked(&*trips, book("8", 2)).refusal(), Some(Refusal::SoldOut));
    assert_eq!(asked(&*trips, book("anna+trip@example.org", 1)).seats_left, 0);
    assert_eq!(asked(&*trips, cancel("9")).refusal(), Some(Refusal::NoBooking));
    assert_eq!(asked(&*trips, Change::Resize { seats: 2 }).refusal(), Some(Refusal::BelowBooked { booked: 3 }));
    assert_eq!(asked(&*trips, Change::Resize { seats: 5 }).seats_left, 2);
    assert_eq!(asked(&*trips, cancel("7")).seats_left, 4);

    let other = site.open();
    let roster = other.roster(&name("1")).unwrap();
    assert_eq!(bookings(&roster), [("anna+trip@example.org".to_owned(), 1)]);
    let view = other.show(&name("1")).unwrap();
    assert_eq!((view.totals.seats, view.totals.seats_left, view.totals.bookings), (5, 4, 1));
    // Refusals without an id have left no trace.
    assert_eq!(view.totals.revision, 5);
    assert_eq!(&view.totals, roster.totals());
}

fn fences_and_revisions_grow(site: &Site) {
    let trips = [site.open(), site.open()];
    let mut last = asked(&*trips[0], Change::Add { seats: 9 });
    for (n, change) in
        [book("1", 1), book("2", 1), cancel("1"), Change::Remove, Change::Add { seats: 2 }].into_iter().enumerate()
    {
        let next = asked(&*trips[n % 2], change);
        assert!(
            next.fence > last.fence && next.revision > last.revision && next.time >= last.time,
            "{last:?} {next:?}"
        );
        last = next;
    }
}

fn an_id_is_answered_once(site: &Site) {
    let trips = site.open();
    asked(&*trips, Change::Add { seats: 1 });
    let first = ask(&*trips, &with_id(book("7", 1), "a"));
    let again = ask(&*site.open(), &with_id(book("7", 1), "a"));
    assert_eq!(again, Answer { replayed: true, ..first.clone() });
    let refused = ask(&*trips, &with_id(book("8", 1), "b"));
    assert_eq!((refused.refusal(), refused.revision), (Some(Refusal::SoldOut), Some(3)));
    // Seats that are free by now change nothing about what was answered.
    asked(&*trips, cancel("7"));
    assert_eq!(ask(&*trips, &with_id(book("8", 1), "b")), Answer { replayed: true, ..refused });
    let other = ask(&*trips, &with_id(book("8", 1), "a"));
    assert_eq!((other.refusal(), other.revision), (Some(Refusal::RequestIdReused), None));
    // An id that triplock made up is as good.
    let generated = asked(&*trips, book("9", 1));
    let id = generated.request_id.clone().unwrap();
    assert_eq!(ask(&*trips, &Request::new(book("9", 1)).with_id(id)), Answer { replayed: true, ..generated });
    assert_eq!(trips.show(&name("1")).unwrap().totals.revision, 5);
    // Of every event and refusal.
    let all = [
        Change::Add { seats: 4 },
        Change::Resize { seats: 1 },
        cancel("7"),
        cancel("9"),
        book("9", 2),
        Change::Resize { seats: 3 },
        book("10", 3),
        Change::Resize { seats: 2 },
        Change::Remove,
        Change::Add { seats: 4 },
    ];
    let ids: Vec<_> = (0..all.len()).map(|n| format!("all{n}")).collect();
    let ask_all = || all.iter().zip(&ids).map(|(change, id)| ask(&*trips, &with_id(change.clone(), id)));
    let answers: Vec<_> = ask_all().collect();
    let again: Vec<_> = ask_all().map(|answer| Answer { replayed: false, ..answer }).collect();
    assert_eq!(again, answers);
}

fn a_removed_trip_leaves_its_bookings_behind(site: &Site) {
    let trips = site.open();
    asked(&*trips, Change::Add { seats: 2 });
    let booked = ask(&*trips, &with_id(book("7", 2), "a"));
    asked(&*trips, Change::Remove);
    assert!(matches!(trips.show(&name("1")), Err(Error::NoSuchTrip(_))));
    assert!(matches!(trips.roster(&name("1")), Err(Error::NoSuchTrip(_))));
    assert!(trips.list().unwrap().is_empty());
    let late = trips.submit(&name("1"), &Request::new(book("8", 1)), Wait::Forever);
    assert!(matches!(late, Err(Error::NoSuchTrip(_))), "{late:?}");
    // What was answered was answered.
    assert_eq!(ask(&*trips, &with_id(book("7", 2), "a")), Answer { replayed: true, ..booked });
    assert_eq!(asked(&*trips, Change::Add { seats: 1 }).seats_left, 1);
    assert_eq!(asked(&*trips, book("7", 1)).outcome(), "booked");
    assert_eq!(bookings(&trips.roster(&name("1")).unwrap()), [("7".to_owned(), 1)]);
}

fn a_batch_is_decided_in_its_order(site: &Site) {
    let trips = site.open();
    let batch = |requests: &[Request]| trips.submit_batch(&name("1"), requests, Wait::Forever);
    assert!(matches!(batch(&[Request::new(book("7", 1))]), Err(Error::NoSuchTrip(_))));
    asked(&*trips, Change::Add { seats: 5 });
    asked(&*trips, book("old", 1));
    let requests = [
        Request::new(book("7", 2)),
        Request::new(book("7", 1)),
        with_id(book("8", 3), "a"),
        with_id(book("8", 3), "a"),
        with_id(cancel("old"), "b"),
        Request::new(book("old", 2)),
        Request::new(cancel("7")),
        Request::new(book("7", 1)),
        Request::new(book("9", 1)),
    ];
    let Acquire::Granted(answers) = batch(&requests).unwrap() else { panic!("held") };
    let gist: Vec<_> = answers.iter().map(|answer| (answer.outcome(), answer.seats_left, answer.replayed)).collect();
    assert_eq!(
        gist,
        [
            ("booked", 2, false),
            ("already_booked", 2, false),
            ("sold_out", 2, false),
            ("sold_out", 2, true),
            ("cancelled", 3, false),
            ("booked", 1, false),
            ("cancelled", 3, false),
            ("booked", 2, false),
            ("booked", 1, false),
        ]
    );
    let expected = [("7", 1), ("9", 1), ("old", 2)].map(|(student, seats)| (student.to_owned(), seats));
    assert_eq!(bookings(&site.open().roster(&name("1")).unwrap()), expected);

    let many: Vec<_> = (0..2500).map(|n| with_id(book(&format!("m{n}"), 1), &format!("m{n}"))).collect();
    asked(&*trips, Change::Resize { seats: 2004 });
    let Acquire::Granted(answers) = batch(&many).unwrap() else { panic!("held") };
    assert_eq!(answers.iter().filter(|answer| answer.refusal().is_none()).count(), 2000);
    let Acquire::Granted(again) = batch(&many).unwrap() else { panic!("held") };
    assert!(again.iter().zip(&answers).all(|(again, first)| again.replayed && again.event == first.event));
    assert_eq!(trips.show(&name("1")).unwrap().totals.seats_left, 0);
}

fn threads_and_processes_sell_each_seat_once(site: &Site) {
    const SEATS: u32 = 90;
    let shared = site.open();
    asked(&*shared, Change::Add { seats: SEATS });
    let booked = AtomicU32::new(0);
    let processes: Vec<_> =
        (0..6).map(|n| site.triplock(&["book", "1", "--student", &format!("p{n}")]).start()).collect();
    std::thread::scope(|scope| {
        for thread in 0..12 {
            let (shared, booked) = (&shared, &booked);
            scope.spawn(move || {
                // Some share connections and commits, some do not.
                let own = (thread % 3 == 0).then(|| site.open());
                let trips = own.as_ref().unwrap_or(shared);
                for n in 0..10 {
                    if asked(&**trips, book(&format!("{thread}-{n}"), 1)).refusal().is_none() {
                        booked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let codes: Vec<_> = processes.into_iter().map(|process| process.finish().code()).collect();
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 3))), "{codes:?}");
    let by_processes = codes.iter().filter(|code| **code == Some(0)).count();
    assert_eq!(booked.into_inner() as usize + by_processes, SEATS as usize);
    let roster = shared.roster(&name("1")).unwrap();
    assert_eq!((roster.totals().seats_left, roster.bookings().count()), (0, SEATS as usize));
}

fn commands_say_what_came_of_it(site: &Site) {
    site.triplock(&["book", "1", "--student", "7"]).fails(66);
    site.triplock(&["trip", "add", "1", "--seats", "1"]).succeeds();
    site.triplock(&["trip", "add", "1", "--seats", "1"]).refused(4);
    site.triplock(&["book", "1", "--student", "7", "--request-id", "r"]).succeeds();
    assert!(site.triplock(&["book", "1", "--student", "7", "--request-id", "r"]).succeeds().replayed);
    site.triplock(&["book", "1", "--student", "8"]).refused(3);
    site.triplock(&["trip", "show", "1"]).shows_seats_left(0);
    site.triplock(&["cancel", "1", "--student", "7"]).succeeds();
    site.triplock(&["book", "1", "--batch", "-"]).stdin("{\"student\":\"9\"}\n{\"student\":\"9\"}\n").run().exits(4);
    let listed = site.triplock(&["trip", "list"]).run().exits(0).stdout.clone();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    site.triplock(&["trip", "remove", "1"]).succeeds();
    site.triplock(&["trip", "show", "1"]).fails(66);
}

#[derive(Debug, Clone)]
enum Step {
    Ask(Change, Option<u8>),
    Batch(Vec<(Change, Option<u8>)>),
    /// Go on as another process.
    Reopen,
}

fn changes() -> impl Strategy<Value = Change> {
    let student = (0..6u8).prop_map(|n| n.to_string().parse().unwrap());
    prop_oneof![
        2 => (1..8u32).prop_map(|seats| Change::Add { seats }),
        10 => (student.clone(), 1..4u32).prop_map(|(student, seats)| Change::Book { student, seats }),
        4 => student.prop_map(|student| Change::Cancel { student }),
        2 => (1..12u32).prop_map(|seats| Change::Resize { seats }),
        1 => Just(Change::Remove),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = || (changes(), prop::option::of(0..12u8));
    let lasting = |(change, _): &(Change, Option<u8>)| !matches!(change, Change::Add { .. } | Change::Remove);
    let step = prop_oneof![
        12 => change().prop_map(|(change, id)| Step::Ask(change, id)),
        // A trip that is not there has no batches.
        3 => prop::collection::vec(change().prop_filter("a batch of a trip", lasting), 0..6).prop_map(Step::Batch),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..30)
}

/// What was answered to a trip before, and the trip.
#[derive(Default)]
struct Model {
    roster: Roster,
    fence: u64,
    answered: HashMap<u8, Event>,
}

impl Model {
    /// What a request comes to, and whether that was answered before; `None`: there is no such trip.
    fn expect(&mut self, change: &Change, id: Option<u8>) -> Option<(Event, bool)> {
        if let Some(event) = id.and_then(|id| self.answered.get(&id)) {
            let reused = Event::Refused { change: change.clone(), refusal: Refusal::RequestIdReused };
            return Some(if event.answers(change) { (event.clone(), true) } else { (reused, false) });
        }
        if self.roster.totals().added.is_none() && !matches!(change, Change::Add { .. }) {
            return None;
        }
        let event = self.roster.decide(change);
        if id.is_some() || !matches!(event, Event::Refused { .. }) {
            self.fence += 1;
            self.roster.apply(&event, Fence(self.fence)).unwrap();
        }
        if let Some(id) = id {
            self.answered.insert(id, event.clone());
        }
        Some((event, false))
    }
}

fn request(change: &Change, id: Option<u8>) -> Request {
    match id {
        Some(id) => with_id(change.clone(), &format!("r{id}")),
        None => Request::new(change.clone()),
    }
}

fn agrees(site: &Site, trip: &Name, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut trips = site.open();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Ask(change, id) => {
                let said = trips.submit(trip, &request(&change, id), Wait::Forever);
                let said = match said {
                    Ok(answer) => answer.granted().map(|answer| (answer.event, answer.replayed)),
                    Err(Error::NoSuchTrip(_)) => None,
                    Err(error) => panic!("{error}"),
                };
                prop_assert_eq!(said, model.expect(&change, id));
            }
            Step::Batch(_) if model.roster.totals().added.is_none() => {}
            Step::Batch(changes) => {
                let requests: Vec<_> = changes.iter().map(|(change, id)| request(change, *id)).collect();
                let said = trips.submit_batch(trip, &requests, Wait::Forever).unwrap().granted().unwrap();
                let said: Vec<_> = said.into_iter().map(|answer| Some((answer.event, answer.replayed))).collect();
                let expected: Vec<_> = changes.iter().map(|(change, id)| model.expect(change, *id)).collect();
                prop_assert_eq!(said, expected);
            }
            Step::Reopen => trips = site.open(),
        }
        match trips.show(trip) {
            Ok(view) => {
                prop_assert_eq!(view.totals.seats_left, model.roster.totals().seats_left);
                prop_assert_eq!(view.totals.bookings, model.roster.totals().bookings);
            }
            Err(Error::NoSuchTrip(_)) => prop_assert!(model.roster.totals().added.is_none()),
            Err(error) => panic!("{error}"),
        }
    }
    if let Ok(roster) = trips.roster(trip) {
        prop_assert!(roster.bookings().eq(model.roster.bookings()));
    }
    Ok(())
}

fn whatever_is_asked_the_model_agrees(site: &Site) {
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let next = AtomicU32::new(0);
    let run = TestRunner::new(config).run(&steps(), |steps| {
        let trip = name(&format!("case{}", next.fetch_add(1, Ordering::Relaxed)));
        agrees(site, &trip, steps)
    });
    run.unwrap_or_else(|error| panic!("{error}"));
}

macro_rules! contract {
    ($store:ident: $make:expr) => {
        contract!($store: $make;
            seats_are_sold_once
            fences_and_revisions_grow
            an_id_is_answered_once
            a_removed_trip_leaves_its_bookings_behind
            a_batch_is_decided_in_its_order
            threads_and_processes_sell_each_seat_once
            commands_say_what_came_of_it
            whatever_is_asked_the_model_agrees
        );
    };
    ($store:ident: $make:expr; $($promise:ident)*) => {
        mod $store {
            use super::*;
            $(
                #[test]
                fn $promise() {
                    let make: fn(&str, &dyn Fn(&Site)) = $make;
                    make(concat!("store_contract::", stringify!($store), "::", stringify!($promise)), &super::$promise);
                }
            )*
        }
    };
}

contract!(files: |_, keeps| keeps(&Site::of_files()));
contract!(postgres: |test, keeps| {
    if Postgres::is_installed(test) {
        keeps(&Site::of_server(&Postgres::shared().database().url()));
    }
});
contract!(redis: |test, keeps| {
    if Redis::is_installed(test) {
        keeps(&Site::of_server(&Redis::start().url()));
    }
});
