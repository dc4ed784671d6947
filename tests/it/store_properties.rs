//! The store against the model: whatever is asked for, in whatever order, one-lock store, two-lock store and the pure
//! roster answer alike; also when somebody throws away what is only derived.

use proptest::prelude::*;
use triplock::{
    Acquire, Answer, Change, Error, Name, Request, StateDir, Store, Wait,
    booking::{Event, Roster},
    lock::Fence,
    state::CommitMode,
};

#[derive(Debug, Clone)]
enum Step {
    Ask(Change, Option<u8>),
    Batch(Vec<(u8, u32)>),
    /// Open the directory anew, as another process would.
    Reopen,
    /// Remove what is derived: `.json`, `.idx`, `.sync` …
    Lose(&'static str),
    /// Cut a half-written line to the end of the ledger.
    Tear(&'static [u8]),
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

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (changes(), prop::option::of(0..12u8)).prop_map(|(change, id)| Step::Ask(change, id)),
        2 => prop::collection::vec((0..6u8, 1..3u32), 0..5).prop_map(Step::Batch),
        1 => Just(Step::Reopen),
        2 => prop::sample::select(vec!["1.json", "1.idx", "1.sync", "1.new"]).prop_map(Step::Lose),
        1 => prop::sample::select(vec![&b"{\"revision\":9"[..], &[0; 300], b"\n", b"}\n{}\n"]).prop_map(Step::Tear),
    ]
}

/// One store in a directory of its own.
struct Subject {
    directory: tempfile::TempDir,
    mode: CommitMode,
    store: Store,
}

fn trip() -> Name {
    "1".parse().unwrap()
}

impl Subject {
    fn new(mode: CommitMode) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), mode);
        Self { directory, mode, store }
    }

    fn ask(&self, change: &Change, id: Option<u8>) -> Result<Answer, Error> {
        let request = Request::new(change.clone());
        let request = match id {
            Some(id) => request.with_id(format!("r{id}").parse().unwrap()),
            None => request,
        };
        self.store.submit(&trip(), &request, Wait::Forever).map(|answer| answer.granted().unwrap())
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.directory.path().join("trips").join(file)
    }
}

fn open(path: &std::path::Path, mode: CommitMode) -> Store {
    Store::open(StateDir::open(path, false).unwrap()).with_commit_mode(mode)
}

/// What an answer says, without what differs from run to run.
fn gist(answer: Result<Answer, Error>) -> String {
    match answer {
        Ok(answer) => {
            format!("{:?} rev {:?} left {} again {}", answer.event, answer.revision, answer.seats_left, answer.replayed)
        }
        Err(Error::NoSuchTrip(_)) => "no such trip".to_owned(),
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn both_protocols_and_the_model_agree(steps in prop::collection::vec(steps(), 1..40)) {
        let mut subjects = [Subject::new(CommitMode::TwoLocks), Subject::new(CommitMode::OneLock)];
        let mut model = Roster::default();
        let mut fence = 0;
        let mut answered = std::collections::HashMap::<u8, Event>::new();
        let mut apply = |model: &mut Roster, event: &Event| {
            fence += 1;
            model.apply(event, Fence(fence)).unwrap();
        };
        for step in steps {
            match step {
                Step::Ask(change, id) => {
                    let [two, one] = subjects.each_ref().map(|subject| gist(subject.ask(&change, id)));
                    prop_assert_eq!(&two, &one);
                    let open = model.totals().added.is_some() || matches!(change, Change::Add { .. });
                    let before = id.and_then(|id| answered.get(&id));
                    if let Some(event) = before {
                        let again = if event.answers(&change) { format!("{event:?}") } else { "RequestIdReused".to_owned() };
                        prop_assert!(two.contains(&again), "{two} repeats {again}");
                    } else if open {
                        let event = model.decide(&change);
                        prop_assert!(two.starts_with(&format!("{event:?}")), "{two} is {event:?}");
                        if id.is_some() || !matches!(event, Event::Refused { .. }) {
                            apply(&mut model, &event);
                        }
                        if let Some(id) = id {
                            answered.insert(id, event);
                        }
                    } else {
                        prop_assert_eq!(two, "no such trip");
                    }
                }
                Step::Batch(bookings) => {
                    let changes: Vec<_> = bookings
                        .iter()
                        .map(|(student, seats)| Change::Book { student: student.to_string().parse().unwrap(), seats: *seats })
                        .collect();
                    let requests: Vec<_> = changes.iter().cloned().map(Request::new).collect();
                    let [two, one] = subjects.each_ref().map(|subject| {
                        match subject.store.submit_batch(&trip(), &requests, Wait::Forever) {
                            Ok(Acquire::Granted(answers)) => answers.into_iter().map(|answer| gist(Ok(answer))).collect(),
                            Ok(Acquire::Held(_)) => panic!("held"),
                            Err(error) => vec![gist(Err(error))],
                        }
                    });
                    prop_assert_eq!(&two, &one);
                    if model.totals().added.is_some() {
                        let mut lines = 0;
                        for (change, said) in changes.iter().zip(&two) {
                            let event = model.decide(change);
                            prop_assert!(said.starts_with(&format!("{event:?}")), "{said} is {event:?}");
                            if !matches!(event, Event::Refused { .. }) {
                                apply(&mut model, &event);
                                lines += 1;
                            }
                        }
                        if lines > 0 {
                            apply(&mut model, &Event::Batch { count: lines });
                        }
                    }
                }
                Step::Reopen => {
                    for subject in &mut subjects {
                        subject.store = open(subject.directory.path(), subject.mode);
                    }
                }
                Step::Lose(file) => {
                    for subject in &subjects {
                        let _ = std::fs::remove_file(subject.path(file));
                    }
                }
                Step::Tear(tail) => {
                    for subject in &subjects {
                        use std::io::Write as _;
                        if let Ok(mut ledger) = std::fs::OpenOptions::new().append(true).open(subject.path("1.jsonl")) {
                            ledger.write_all(tail).unwrap();
                        }
                    }
                }
            }
        }
        for subject in &subjects {
            match subject.store.roster(&trip()) {
                Ok(roster) => {
                    prop_assert!(roster.bookings().eq(model.bookings()));
                    prop_assert_eq!(roster.totals().seats_left, model.totals().seats_left);
                    prop_assert_eq!(roster.totals().revision, model.totals().revision);
                }
                Err(Error::NoSuchTrip(_)) => prop_assert!(model.totals().added.is_none()),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn threads_of_one_process_sell_each_seat_once() {
    let subject = Subject::new(CommitMode::TwoLocks);
    let seats = 300;
    subject.ask(&Change::Add { seats }, None).unwrap();
    let booked = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..16u32 {
            let (subject, booked) = (&subject, &booked);
            scope.spawn(move || {
                for n in 0..25u32 {
                    let student = (thread * 25 + n).to_string().parse().unwrap();
                    let answer = subject.ask(&Change::Book { student, seats: 1 }, None).unwrap();
                    if answer.refusal().is_none() {
                        booked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(booked.into_inner(), seats);
    let roster = subject.store.roster(&trip()).unwrap();
    assert_eq!((roster.totals().seats_left, roster.bookings().count()), (0, 300));
}

#[test]
fn a_holder_that_lost_its_lock_commits_nothing() {
    let subject = Subject::new(CommitMode::TwoLocks);
    subject.ask(&Change::Add { seats: 1 }, None).unwrap();
    let old = subject.store.lock(&trip(), Wait::No).unwrap().granted().unwrap();
    // Somebody removes the lock file by hand, and the next process locks a new one.
    std::fs::remove_file(subject.path("1.lock")).unwrap();
    let booked = subject.ask(&Change::Book { student: "2".parse().unwrap(), seats: 1 }, None).unwrap();
    assert!(booked.refusal().is_none());
    let late = old.submit(&Request::new(Change::Book { student: "1".parse().unwrap(), seats: 1 }));
    assert!(matches!(late, Err(Error::LockLost(_))), "{late:?}");
    assert_eq!(subject.store.roster(&trip()).unwrap().bookings().count(), 1);
}

#[test]
fn an_index_answers_what_the_ledger_says() {
    let subject = Subject::new(CommitMode::TwoLocks);
    subject.ask(&Change::Add { seats: 1_000_000 }, None).unwrap();
    let book = |n: u32| Request::new(Change::Book { student: n.to_string().parse().unwrap(), seats: 1 });
    let mut next = 0;
    // Many checkpoints, so that runs are merged; cancels, so that the newest line must win.
    for round in 0..40u8 {
        let requests: Vec<_> =
            (0..400).map(|n| book(next + n).with_id(format!("id-{}", next + n).parse().unwrap())).collect();
        next += 400;
        drop(subject.store.submit_batch(&trip(), &requests, Wait::Forever).unwrap());
        let student = (u32::from(round) * 400 + 7).to_string().parse().unwrap();
        assert!(subject.ask(&Change::Cancel { student }, None).unwrap().refusal().is_none());
    }
    assert!(std::fs::metadata(subject.path("1.idx")).unwrap().len() > 8192, "there is an index");
    let check = || {
        for n in (0..next).step_by(97) {
            let booked = subject.store.lock(&trip(), Wait::No).unwrap().granted().unwrap();
            let expected = if n % 400 == 7 { None } else { Some(1) };
            assert_eq!(booked.booked(&n.to_string().parse().unwrap()).unwrap(), expected, "student {n}");
        }
        let again = book(8).with_id("id-8".parse().unwrap());
        let again = subject.store.submit(&trip(), &again, Wait::No).unwrap().granted().unwrap();
        assert!(again.replayed);
    };
    check();
    // Damage every block: found out by its checksum, and the ledger is asked instead.
    let mut bytes = std::fs::read(subject.path("1.idx")).unwrap();
    for block in bytes.chunks_mut(2048).skip(2) {
        block[100] ^= 1;
    }
    std::fs::write(subject.path("1.idx"), &bytes).unwrap();
    check();
    std::fs::remove_file(subject.path("1.idx")).unwrap();
    check();
}

#[test]
fn a_request_id_is_kept_for_30_days() {
    use chrono::{DateTime, TimeDelta, Utc};
    use std::sync::{Arc, Mutex};
    struct SetClock(Mutex<DateTime<Utc>>);
    impl triplock::clock::Clock for SetClock {
        fn now(&self) -> DateTime<Utc> {
            *self.0.lock().unwrap()
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock(Mutex::new(Utc::now())));
    let store = open(directory.path(), CommitMode::TwoLocks).with_clock(clock.clone());
    let ask = |change| {
        let request = Request::new(change).with_id("r".parse().unwrap());
        store.submit(&trip(), &request, Wait::No).unwrap().granted().unwrap()
    };
    drop(store.submit(&trip(), &Request::new(Change::Add { seats: 1 }), Wait::No).unwrap());
    let book = || Change::Book { student: "7".parse().unwrap(), seats: 1 };
    assert!(!ask(book()).replayed);
    *clock.0.lock().unwrap() += TimeDelta::days(29);
    assert!(ask(book()).replayed);
    *clock.0.lock().unwrap() += TimeDelta::days(2);
    let after = ask(book());
    assert!(!after.replayed);
    assert_eq!(after.outcome(), "already_booked");
}
