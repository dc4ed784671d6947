//! Durable bookings from the library, beside the load generator that Redis comes with.

use std::{
    process::Command,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use triplock::{Acquire, Change, Name, Request, StateDir, Store, Trips, Wait};

use crate::{
    drive::{Drove, output},
    peer,
    report::{Figures, Part, Target},
    server::{self, Server},
    site::Site,
};

pub(crate) const ROUNDS: usize = 5;
/// Redis's load is a number of requests: about as many as it does in a second.
const LOADS: [(usize, u32); 3] = [(1, 3_000), (8, 12_000), (64, 30_000)];

pub(crate) fn measure(site: &Site) -> Part {
    let about = "Durable bookings per second from threads of one process that share a store (this benchmark's build: \
                 dist, dynamic), beside redis-benchmark with as many connections, the same check and decrement in Lua, \
                 appendfsync always; 5 rounds of about 1 s in turn";
    let mut part = Part::new("library", about);
    let redis = match server::redis(site) {
        Ok(redis) => redis,
        Err(why) => {
            part.note(format!("**Not measured:** {why}"));
            return part;
        }
    };
    let trip: Name = "1".parse().expect("a name");
    let state = StateDir::open(site.directory("library"), false).expect("a state directory");
    let store = Store::open(state);
    book(&store, &trip, Change::Add { seats: u32::MAX });
    let students = AtomicU64::new(0);
    for (threads, requests) in LOADS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            ours.push(threads_booking(&store, &trip, threads, &students).rate());
            theirs.push(redis_benchmark(&redis, threads * ROUNDS + round, threads, requests));
        }
        let (ours, theirs) = (Figures::new(&ours, "/s"), Figures::new(&theirs, "/s"));
        part.row(&format!("{threads} threads / {threads} connections"), &ours, &theirs, Target::at_least(1.0));
    }

    let left = u64::from(store.show(&trip).expect("the trip").totals.seats_left);
    assert_eq!(u64::from(u32::MAX) - left, students.into_inner(), "the library does not hold what was booked");
    part
}

/// One change, which must succeed.
pub(crate) fn book(store: &dyn Trips, trip: &Name, change: Change) {
    match store.submit(trip, &Request::new(change), Wait::Forever).expect("an answer") {
        Acquire::Granted(answer) => assert!(answer.refusal().is_none(), "{answer:?}"),
        Acquire::Held(holder) => panic!("held by {holder:?}"),
    }
}

/// Books from so many threads for a second, a seat for each of the next students.
pub(crate) fn threads_booking(store: &dyn Trips, trip: &Name, threads: usize, students: &AtomicU64) -> Drove {
    let start = Barrier::new(threads + 1);
    let (by_driver, took) = thread::scope(|scope| {
        let start = &start;
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(move || {
                    start.wait();
                    let until = Instant::now() + Duration::from_secs(1);
                    let mut done = 0;
                    while Instant::now() < until {
                        let student = students.fetch_add(1, Ordering::Relaxed).to_string().parse().expect("a student");
                        book(store, trip, Change::Book { student, seats: 1 });
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let by_driver = threads.into_iter().map(|thread| thread.join().expect("a thread failed")).collect();
        (by_driver, began.elapsed())
    });
    Drove { by_driver, took }
}

/// What redis-benchmark says that it reached, on a trip of its own: its seed is the time XOR its process id, so two runs
/// can draw the same students.
fn redis_benchmark(redis: &Server, trip: usize, connections: usize, requests: u32) -> f64 {
    peer::redis_trip(redis.port, trip);
    let told = output(
        Command::new("redis-benchmark")
            .args(["-p", &redis.port.to_string(), "-c", &connections.to_string(), "-n", &requests.to_string()])
            .args(["-q", "-r", "2000000000", "EVAL", peer::LUA, "2"])
            .args([&format!("trip:{trip}:left"), &format!("trip:{trip}:bookings"), "__rand_int__", "1"]),
    );
    // Of two thousand million students a few come twice.
    let held = peer::redis_booked(redis.port, trip);
    assert!(held * 1000 >= u64::from(requests) * 999, "Redis holds {held} of {requests} bookings");
    requests_per_second(&told)
}

/// What `redis-benchmark -q` says.
pub(crate) fn requests_per_second(told: &str) -> f64 {
    let words: Vec<&str> = told.split_whitespace().collect();
    let at = words.windows(3).rposition(|words| words == ["requests", "per", "second,"]).expect("a rate");
    words[at - 1].parse().expect("a number")
}
