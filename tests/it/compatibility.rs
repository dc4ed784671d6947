//! Files that earlier versions wrote, checked in: they must load for ever.

use std::{fs, path::Path};

use triplock::{Acquire, Change, Request, StateDir, Store, Wait, lock::Fence};

#[test]
fn a_trip_of_format_1_is_read_and_changed() {
    let directory = tempfile::tempdir().unwrap();
    let trips = directory.path().join("trips");
    fs::create_dir(&trips).unwrap();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/format-1/trips")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), trips.join(file.file_name())).unwrap();
    }
    let store = Store::open(StateDir::open(directory.path(), false).unwrap());
    let trip = "old".parse().unwrap();

    let roster = store.roster(&trip).unwrap();
    let bookings: Vec<_> = roster.bookings().map(|(student, seats)| (student.as_str(), seats)).collect();
    assert_eq!(bookings, [("2", 3), ("3", 1), ("4", 2)]);
    let totals = store.show(&trip).unwrap().totals;
    assert_eq!((totals.seats, totals.seats_left, totals.bookings, totals.revision), (12, 6, 3, 9));

    let book = Request::new(Change::Book { student: "5".parse().unwrap(), seats: 6 });
    let Acquire::Granted(booked) = store.submit(&trip, &book, Wait::No).unwrap() else { panic!("nobody holds it") };
    assert_eq!((booked.refusal(), booked.seats_left, booked.revision), (None, 0, Some(10)));
    assert!(booked.fence > Fence(8), "the fence goes on: {}", booked.fence);
}
