//! What `QueueLock` promises beyond what every lock does: who comes first is served first.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use triplock::{
    Acquire, Error, Name, StateDir, Wait,
    clock::SystemClock,
    lock::{Guard as _, Identity, Lock as _, QueueLock},
};

use crate::sandbox::{TRIPLOCK, eventually, waiters};

fn name() -> Name {
    "1".parse().unwrap()
}

fn queue(directory: &Path) -> QueueLock {
    let state = StateDir::open(directory, false).unwrap();
    QueueLock::named(&state, Identity::current(), Arc::new(SystemClock)).unwrap()
}

#[track_caller]
fn hold(lock: &QueueLock) -> <QueueLock as triplock::lock::Lock>::Guard {
    lock.acquire(&name(), Wait::No).unwrap().granted().expect("the lock is free")
}

/// Returns when that many stand in line: a ticket is a locked byte.
#[track_caller]
fn stand_in_line(directory: &Path, number: usize) {
    let lane = directory.join("locks/1.lane");
    eventually(&format!("{number} stand in line"), || {
        let Ok(lane) = fs::metadata(&lane) else { return number == 0 };
        let inode = format!(":{} ", lane.ino());
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let tickets = locks.lines().filter(|line| line.contains(" OFDLCK ") && line.contains(" WRITE "));
        // Each byte once: the kernel hands the list out in pieces, between which a lock may move.
        let bytes = tickets.filter(|line| line.contains(&inode)).filter_map(|line| line.split(' ').next_back());
        bytes.collect::<BTreeSet<_>>().len() == number
    });
}

#[test]
fn threads_are_served_in_the_order_in_which_they_came() {
    let directory = tempfile::tempdir().unwrap();
    let lock = queue(directory.path());
    let served = Mutex::new(Vec::new());
    let held = hold(&lock);
    thread::scope(|scope| {
        for waiter in 0..12 {
            let (lock, served) = (&lock, &served);
            // The timed and the untimed wait in one line.
            let wait = if waiter % 2 == 0 { Wait::Forever } else { Wait::For(Duration::from_secs(60)) };
            scope.spawn(move || {
                let _held = lock.acquire(&name(), wait).unwrap().granted().unwrap();
                served.lock().unwrap().push(waiter);
            });
            stand_in_line(directory.path(), waiter + 1);
        }
        drop(held);
    });
    assert_eq!(served.into_inner().unwrap(), (0..12).collect::<Vec<_>>());
    stand_in_line(directory.path(), 0);
}

#[test]
fn a_newcomer_does_not_overtake_at_the_moment_of_release() {
    let directory = tempfile::tempdir().unwrap();
    let lock = queue(directory.path());
    for round in 0..200 {
        let (served, asked) = (AtomicBool::new(false), AtomicU32::new(0));
        let after_it = || assert!(served.load(Ordering::SeqCst), "overtaken in round {round}");
        let held = hold(&lock);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _held = lock.acquire(&name(), Wait::Forever).unwrap().granted().unwrap();
                served.store(true, Ordering::SeqCst);
            });
            stand_in_line(directory.path(), 1);
            // One asks all the time and does not wait, the other comes to stay.
            scope.spawn(|| {
                loop {
                    asked.fetch_add(1, Ordering::SeqCst);
                    if let Acquire::Granted(_held) = lock.acquire(&name(), Wait::No).unwrap() {
                        return after_it();
                    }
                }
            });
            eventually("it asks", || asked.load(Ordering::SeqCst) > 1);
            let last = scope.spawn(|| {
                let _held = lock.acquire(&name(), Wait::Forever).unwrap().granted().unwrap();
                after_it();
            });
            drop(held);
            last.join().unwrap();
        });
    }
}

#[test]
fn the_wait_for_the_turn_counts() {
    let directory = tempfile::tempdir().unwrap();
    let lock = queue(directory.path());
    let held = hold(&lock);
    thread::scope(|scope| {
        let first = scope.spawn(|| lock.acquire(&name(), Wait::Forever).unwrap().granted().is_some());
        stand_in_line(directory.path(), 1);
        let begun = Instant::now();
        match lock.acquire(&name(), Wait::For(Duration::from_millis(100))) {
            // This thread holds it: no line would ever move.
            Err(Error::Reentrant(_)) => {}
            other => panic!("{other:?}"),
        }
        let second =
            scope.spawn(|| lock.acquire(&name(), Wait::For(Duration::from_millis(100))).unwrap().granted().is_some());
        assert!(!second.join().unwrap(), "nobody let it in");
        assert!(begun.elapsed() >= Duration::from_millis(100));
        assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
        // Both gave up their places, and nobody else's.
        stand_in_line(directory.path(), 1);
        match lock.acquire(&name(), Wait::No).unwrap() {
            Acquire::Held(holder) => assert_eq!(holder.expect("a note").fence, held.fence()),
            Acquire::Granted(_) => panic!("two holders"),
        }
        drop(held);
        assert!(first.join().unwrap());
    });
}

/// A process that waits in line for the lock and then writes its number down: a student of a race whose gate is open.
fn student(directory: &Path, number: usize) -> Child {
    let mut command = Command::new(TRIPLOCK);
    command.arg("race-student").arg("--dir").arg(directory).arg("--state-dir").arg(directory);
    command.args(["--lock", "queue", "--name", "1", "--delay-ms", "0", "--wait-ms", "60000"]);
    command.args(["--student", &number.to_string(), "--parent", &std::process::id().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// The numbers, in the order in which they were written.
fn written(directory: &Path) -> Vec<usize> {
    let list = fs::read_to_string(directory.join("bookings.jsonl")).unwrap();
    let number = |line| serde_json::from_str::<Value>(line).unwrap()["student"].as_u64().unwrap();
    list.lines().map(|line| usize::try_from(number(line)).unwrap()).collect()
}

#[test]
fn processes_are_served_in_the_order_in_which_they_came_also_when_one_of_them_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let lock = queue(directory.path());
    fs::write(directory.path().join("tracker.json"), r#"{"format":1,"trip":"1","seats_left":1000}"#).unwrap();
    for round in 0..10 {
        fs::write(directory.path().join("bookings.jsonl"), "").unwrap();
        let held = hold(&lock);
        let mut students: Vec<Child> = Vec::new();
        for number in 1..=5 {
            students.push(student(directory.path(), number));
            stand_in_line(directory.path(), number);
        }
        // Whoever is stopped and goes on would have a new place in the kernel's own line for the lock.
        let file = File::open(directory.path().join("locks/1.lock")).unwrap();
        eventually("the first waits for the lock", || waiters(&file) == 1);
        let first = Pid::from_child(&students[0]);
        kill_process(first, Signal::STOP).unwrap();
        eventually("it is stopped", || waiters(&file) == 0);
        kill_process(first, Signal::CONT).unwrap();
        eventually("it waits again", || waiters(&file) == 1);

        students[2].kill().unwrap();
        students.remove(2).wait().unwrap();
        stand_in_line(directory.path(), 4);
        thread::scope(|scope| {
            // It asks all the time, and is let in when nobody stands there any more.
            let newcomer = scope.spawn(|| {
                loop {
                    if let Acquire::Granted(_held) = lock.acquire(&name(), Wait::No).unwrap() {
                        return written(directory.path());
                    }
                }
            });
            drop(held);
            assert_eq!(newcomer.join().unwrap(), [1, 2, 4, 5], "round {round}");
        });
        for mut student in students {
            assert!(student.wait().unwrap().success());
        }
    }
}
