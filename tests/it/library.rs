//! A process that lives long: threads, open files, neighbours that look at everything.

use std::{
    fs::{self, File},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use triplock::{Acquire, Answer, Change, Error, Name, Refusal, Request, StateDir, Store, Wait};

use crate::sandbox::{eventually, waiters};

fn trip() -> Name {
    "1".parse().unwrap()
}

fn store(path: &Path) -> Store {
    Store::open(StateDir::open(path, false).unwrap())
}

fn with_trip(path: &Path) -> Store {
    let store = store(path);
    drop(store.submit(&trip(), &Request::new(Change::Add { seats: 1_000_000 }), Wait::No).unwrap());
    store
}

fn booking(student: &(impl ToString + ?Sized)) -> Request {
    Request::new(Change::Book { student: student.to_string().parse().unwrap(), seats: 1 })
}

fn book(store: &Store, student: &(impl ToString + ?Sized)) -> Answer {
    store.submit(&trip(), &booking(student), Wait::Forever).unwrap().granted().unwrap()
}

#[test]
fn a_neighbour_that_opens_every_file_ends_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_trip(directory.path());
    let trips = directory.path().join("trips");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&trips).unwrap() {
                    let _ = File::open(entry.unwrap().path());
                }
            }
        });
        for student in 0..2000 {
            assert_eq!(book(&store, &student).refusal(), None);
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// The state files take turns; what makes one unfit to be written over must be seen for each by itself.
fn state_survives(keep: impl FnOnce(&Path) -> Box<dyn FnOnce() -> Vec<u8>>) {
    let directory = tempfile::tempdir().unwrap();
    let store = with_trip(directory.path());
    book(&store, "first");
    let state = directory.path().join("trips/1.json");
    let before = fs::read(&state).unwrap();
    let read_kept = keep(&state);
    for student in 0..5 {
        book(&store, &student);
    }
    assert_ne!(fs::read(&state).unwrap(), before);
    assert_eq!(read_kept(), before, "it was written over");
}

#[test]
fn a_reader_keeps_the_state_that_it_opened() {
    state_survives(|state| {
        let reader = File::open(state).unwrap();
        Box::new(move || std::io::read_to_string(reader).unwrap().into_bytes())
    });
}

#[test]
fn a_hard_link_keeps_the_state_that_it_was_made_of() {
    state_survives(|state| {
        let backup = state.with_file_name("backup.json");
        fs::hard_link(state, &backup).unwrap();
        Box::new(move || fs::read(backup).unwrap())
    });
}

#[test]
fn a_thread_that_holds_the_trip_is_told_and_does_not_wait_for_its_waiters() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_trip(directory.path());
    let held = store.lock(&trip(), Wait::No).unwrap().granted().unwrap();
    let lock = File::open(directory.path().join("trips/1.lock")).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| book(&store, "other"));
        eventually("the other thread waits", || waiters(&lock) == 1);
        for wait in [Wait::Forever, Wait::For(Duration::from_secs(60))] {
            let told = store.submit(&trip(), &booking("own"), wait);
            assert!(matches!(told, Err(Error::Reentrant(_))), "{told:?}");
        }
        drop(held);
        assert_eq!(waiting.join().unwrap().refusal(), None);
    });
}

#[test]
fn descriptors_do_not_pile_up() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_trip(directory.path());
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for student in 0..1000 {
        let Acquire::Granted(locked) = store.lock(&trip(), Wait::Forever).unwrap() else { panic!("held") };
        assert_eq!(locked.submit(&booking(&student)).unwrap().refusal(), None);
    }
    // Other tests of this process open files too.
    assert!(open() < before + 200, "{before} before, {} now", open());
}

#[test]
fn an_index_from_the_future_is_not_believed() {
    let (live, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let names = |letter: char, from: u32| (from..from + 200).map(move |n| format!("{letter}{n}"));
    let book_all = |store: &Store, names: &mut dyn Iterator<Item = String>| {
        let requests: Vec<_> = names.map(|name| booking(&name)).collect();
        drop(store.submit_batch(&trip(), &requests, Wait::Forever).unwrap());
    };
    let store_of_live = with_trip(live.path());
    book_all(&store_of_live, &mut names('a', 100));
    fs::create_dir(copy.path().join("trips")).unwrap();
    let bring = |file: &str| {
        fs::copy(live.path().join("trips").join(file), copy.path().join("trips").join(file)).unwrap();
    };
    ["1.jsonl", "1.json", "1.lock", "1.sync"].into_iter().for_each(bring);
    // The live one goes on while it is copied, and the index comes last.
    book_all(&store_of_live, &mut names('b', 100));
    bring("1.idx");
    let store_of_copy = store(copy.path());
    // The copy grows past what the index claims to cover, so that checkpoints come to extend it too.
    for letter in ['d', 'e', 'f', 'g'] {
        book_all(&store_of_copy, &mut names(letter, 100));
        for letter in ('a'..=letter).filter(|letter| !['b', 'c'].contains(letter)) {
            for student in names(letter, 100) {
                let again = book(&store_of_copy, &student).refusal();
                assert_eq!(again, Some(Refusal::AlreadyBooked { booked: 1 }), "{student}");
            }
        }
    }
}

#[test]
fn the_fence_goes_on_when_the_lock_file_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_trip(directory.path());
    let before = book(&store, "a").fence;
    fs::remove_file(directory.path().join("trips/1.lock")).unwrap();
    assert!(book(&store, "b").fence > before);
}
