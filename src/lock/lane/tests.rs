//! Lanes and their tickets, in one process.

use std::{
    sync::{Arc, Barrier, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::dir::StateDir;

fn directory() -> (tempfile::TempDir, Arc<Dir>) {
    let directory = tempfile::tempdir().unwrap();
    let dir = StateDir::open(directory.path(), false).unwrap().make_subdirectory("jobs").unwrap();
    (directory, Arc::new(dir))
}

fn take(dir: &Dir) -> Ticket {
    Lane::make(dir, "a").unwrap().take(0).unwrap()
}

fn is_first(ticket: &Ticket) -> bool {
    ticket.is_first().unwrap()
}

#[test]
fn tickets_are_served_in_the_order_in_which_they_were_taken() {
    let (_directory, dir) = directory();
    assert!(Lane::open(&dir, "a").unwrap().is_none());
    let first = take(&dir);
    let (served, order) = mpsc::channel();
    let waiters: Vec<_> = (0..20)
        .map(|number| {
            let (ticket, served) = (take(&dir), served.clone());
            thread::spawn(move || {
                assert!(ticket.wait_for_turn(Until::Never, &mut || Ok(())).unwrap());
                served.send(number).unwrap();
            })
        })
        .collect();
    assert!(Lane::open(&dir, "a").unwrap().unwrap().has_waiters().unwrap());
    assert!(is_first(&first));
    first.leave();
    for waiter in waiters {
        waiter.join().unwrap();
    }
    assert_eq!(order.try_iter().collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(!Lane::open(&dir, "a").unwrap().unwrap().has_waiters().unwrap());
}

#[test]
fn a_waiter_that_goes_lets_nobody_past_those_before_it() {
    let (_directory, dir) = directory();
    let (first, second, third) = (take(&dir), take(&dir), take(&dir));
    let (passed, hears) = mpsc::channel();
    let last = thread::spawn(move || {
        let mut passed = || passed.send(()).map_err(|_| unreachable!());
        third.wait_for_turn(Until::Never, &mut passed).unwrap()
    });
    drop(second);
    hears.recv().unwrap();
    assert!(!last.is_finished());
    drop(first);
    assert!(last.join().unwrap());
}

#[test]
fn a_wait_ends_in_time() {
    let (_directory, dir) = directory();
    let (_first, second) = (take(&dir), take(&dir));
    let until = Instant::now() + Duration::from_millis(20);
    assert!(!second.wait_for_turn(Until::At(until), &mut || Ok(())).unwrap());
    assert!(Instant::now() >= until);
}

#[test]
fn a_replacement_and_who_comes_back_stand_before_those_that_came_later() {
    let (_directory, dir) = directory();
    let (first, second) = (take(&dir), take(&dir));
    let place = first.place();
    assert!(Lane::make(&dir, "a").unwrap().take_again(place).unwrap().is_none());
    drop(first);
    assert!(is_first(&second));
    let first = Lane::make(&dir, "a").unwrap().take_again(place).unwrap().unwrap();
    assert!(is_first(&first) && !is_first(&second));
    let front = Lane::make(&dir, "a").unwrap().take_front().unwrap();
    assert!(is_first(&front) && !is_first(&first));
    assert!(Lane::make(&dir, "a").unwrap().take_front().is_err());
}

#[test]
fn numbers_grow_when_the_file_was_emptied_or_holds_nonsense() {
    let (_directory, dir) = directory();
    let mut last = 0;
    for content in ["", "\0\0\0\0", "x y\n", "99999999999999999999 1\n"] {
        let path = dir.path_of("a.lane");
        if path.exists() {
            std::fs::write(&path, content).unwrap();
        }
        let ticket = take(&dir);
        assert!(ticket.place().ticket > last, "{content}");
        last = ticket.place().ticket;
    }
}

#[test]
fn two_that_come_at_once_get_two_numbers() {
    let (_directory, dir) = directory();
    let (barrier, numbers) = (Barrier::new(8), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..50 {
                    numbers.lock().unwrap().push(take(&dir).place().ticket);
                }
            });
        }
    });
    let mut numbers = numbers.into_inner().unwrap();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 400);
}

#[test]
fn a_run_is_waited_for_beyond_its_ticket() {
    let (_directory, dir) = directory();
    let ticket = Lane::make(&dir, "a").unwrap().take(7).unwrap();
    assert_eq!(take(&dir).before(), Some(ticket.place()));
    ticket.begin_run().unwrap();
    ticket.leave();
    let lane = Lane::make(&dir, "a").unwrap();
    assert!(lane.has_run(7).unwrap() && !lane.has_run(8).unwrap() && !lane.is_live(ticket.place().ticket).unwrap());
    let waiter = thread::spawn(move || lane.wait_for_run(7, Until::Never).unwrap());
    ticket.end_run();
    assert!(waiter.join().unwrap());
}
