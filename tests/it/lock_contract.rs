//! What every lock back end promises. A new one joins with one line at the end.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use triplock::{
    Acquire, Error, Name, StateDir, Wait,
    clock::SystemClock,
    lock::{FileLock, Guard, Identity, LeasedLock, Lock, LossMode, MemoryLock, PostgresLock, QueueLock},
};

use crate::{
    sandbox::eventually,
    servers::{Postgres, Redis},
};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[track_caller]
fn granted<L: Lock>(lock: &L, wait: Wait) -> L::Guard {
    lock.acquire(&name("1"), wait).unwrap().granted().expect("the lock is free")
}

/// Holds the lock on a thread of its own until the sender is dropped.
fn held_elsewhere<L: Lock + Clone + 'static>(lock: &L) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (ready, is_ready) = mpsc::channel();
    let lock = lock.clone();
    thread::spawn(move || {
        let _guard = granted(&lock, Wait::Forever);
        ready.send(()).unwrap();
        let _ = released.recv();
    });
    is_ready.recv().unwrap();
    release
}

fn one_holder_at_a_time<L: Lock + Clone + 'static>(lock: &L) {
    const THREADS: u32 = 8;
    const ROUNDS: u32 = 50;
    let inside = AtomicU32::new(0);
    let count = AtomicU32::new(0);
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for _ in 0..ROUNDS {
                    let _guard = granted(lock, Wait::Forever);
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                    // Read, then write: an update is lost when the lock does not hold.
                    let seen = count.load(Ordering::Relaxed);
                    thread::yield_now();
                    count.store(seen + 1, Ordering::Relaxed);
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(count.load(Ordering::Relaxed), THREADS * ROUNDS);
}

fn a_held_lock_is_a_value_and_names_its_holder<L: Lock + Clone + 'static>(lock: &L) {
    let _release = held_elsewhere(lock);
    match lock.acquire(&name("1"), Wait::No).unwrap() {
        Acquire::Held(holder) => assert_eq!(holder.expect("a note").pid, std::process::id()),
        Acquire::Granted(_) => panic!("two holders"),
    }
    assert!(lock.acquire(&name("2"), Wait::No).unwrap().granted().is_some(), "another name is another lock");
}

fn a_timed_wait_ends_in_time<L: Lock + Clone + 'static>(lock: &L) {
    let _release = held_elsewhere(lock);
    let begun = Instant::now();
    assert!(lock.acquire(&name("1"), Wait::For(Duration::from_millis(100))).unwrap().granted().is_none());
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
}

fn a_waiter_gets_the_lock_when_it_is_released<L: Lock + Clone + 'static>(lock: &L) {
    for wait in [Wait::Forever, Wait::For(Duration::from_secs(60))] {
        let release = held_elsewhere(lock);
        let released = Arc::new(AtomicBool::new(false));
        let waiter = thread::spawn({
            let (lock, released) = (lock.clone(), Arc::clone(&released));
            move || {
                let _guard = granted(&lock, wait);
                assert!(released.load(Ordering::SeqCst), "granted before it was released");
            }
        });
        released.store(true, Ordering::SeqCst);
        drop(release);
        waiter.join().unwrap();
    }
}

fn a_panicking_holder_releases<L: Lock + Clone + 'static>(lock: &L) {
    let holder = thread::spawn({
        let lock = lock.clone();
        move || {
            let _guard = granted(&lock, Wait::No);
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    });
    assert!(holder.join().is_err());
    drop(granted(lock, Wait::No));
}

fn fences_grow<L: Lock + Clone + 'static>(lock: &L) {
    let fences: Vec<_> = (0..5).map(|_| granted(lock, Wait::No).fence()).collect();
    assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "{fences:?}");
}

fn waiting_for_oneself_is_an_error<L: Lock + Clone + 'static>(lock: &L) {
    let guard = granted(lock, Wait::No);
    assert!(lock.acquire(&name("1"), Wait::No).unwrap().granted().is_none(), "without a wait it is just held");
    for wait in [Wait::Forever, Wait::For(Duration::from_secs(60))] {
        assert!(matches!(lock.acquire(&name("1"), wait), Err(Error::Reentrant(_))));
    }
    drop(guard);
    drop(granted(lock, Wait::Forever));
}

fn a_guard_is_valid<L: Lock + Clone + 'static>(lock: &L) {
    assert!(granted(lock, Wait::No).is_valid().unwrap());
}

macro_rules! contract {
    ($back_end:ident: $make:expr) => {
        contract!($back_end: $make;
            one_holder_at_a_time
            a_held_lock_is_a_value_and_names_its_holder
            a_timed_wait_ends_in_time
            a_waiter_gets_the_lock_when_it_is_released
            a_panicking_holder_releases
            fences_grow
            waiting_for_oneself_is_an_error
            a_guard_is_valid
        );
    };
    ($back_end:ident: $make:expr; $($promise:ident)*) => {
        mod $back_end {
            use super::*;
            $(
                #[test]
                fn $promise() {
                    let make: fn(&str, &dyn Fn(&_)) = $make;
                    make(concat!("lock_contract::", stringify!($back_end), "::", stringify!($promise)), &super::$promise);
                }
            )*
        }
    };
}

contract!(memory: |_, keeps| keeps(&MemoryLock::new(Identity::current(), Arc::new(SystemClock))));
contract!(file: |_, keeps| {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path(), false).unwrap();
    keeps(&FileLock::named(&state, Identity::current(), Arc::new(SystemClock)).unwrap());
});
contract!(queue: |_, keeps| {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path(), false).unwrap();
    keeps(&QueueLock::named(&state, Identity::current(), Arc::new(SystemClock)).unwrap());
});
contract!(redis_lease: |test, keeps| {
    if Redis::is_installed(test) {
        keeps(&leased(&Redis::start().url(), LeasedLock::TTL));
    }
});
contract!(postgres_lease: |test, keeps| {
    if Postgres::is_installed(test) {
        keeps(&leased(&Postgres::shared().database().url(), LeasedLock::TTL));
    }
});

contract!(postgres_row: |test, keeps| {
    if Postgres::is_installed(test) {
        keeps(&PostgresLock::connect(Postgres::shared().database().url().parse().unwrap()).unwrap());
    }
});

fn leased(url: &str, ttl: Duration) -> LeasedLock {
    LeasedLock::connect(url.parse().unwrap(), ttl, Identity::current(), Arc::new(SystemClock)).unwrap()
}

#[test]
fn a_fence_outlives_the_back_end_and_garbage_in_its_file_does_not_stop_it() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let state = StateDir::open(directory.path(), false).unwrap();
        FileLock::named(&state, Identity::current(), Arc::new(SystemClock)).unwrap()
    };
    let first = granted(&open(), Wait::No).fence();
    let second = granted(&open(), Wait::No).fence();
    assert!(first < second);
    std::fs::write(directory.path().join("locks/1.lock"), "not a note").unwrap();
    drop(granted(&open(), Wait::No));
}

#[test]
fn a_lock_file_that_was_replaced_is_not_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path(), false).unwrap();
    let lock = FileLock::named(&state, Identity::current(), Arc::new(SystemClock)).unwrap();
    let old = granted(&lock, Wait::No);
    std::fs::remove_file(directory.path().join("locks/1.lock")).unwrap();
    assert!(!old.is_valid().unwrap(), "the path means nothing now");
    let new = granted(&lock, Wait::No);
    assert!(new.is_valid().unwrap() && !old.is_valid().unwrap());

    // A waiter that slept on the file while it was replaced must end up on the path's new one.
    let waiter = thread::spawn({
        let lock = lock.clone();
        move || granted(&lock, Wait::For(Duration::from_secs(60))).is_valid().unwrap()
    });
    let sleeps = || {
        std::fs::read_to_string("/proc/locks")
            .unwrap()
            .lines()
            .any(|line| line.contains("->") && line.contains("FLOCK"))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !sleeps() && Instant::now() < deadline {
        thread::yield_now();
    }
    std::fs::remove_file(directory.path().join("locks/1.lock")).unwrap();
    drop(new);
    assert!(waiter.join().unwrap());
}

/// On each kind of server that is installed.
fn on_each_server(test: &str, check: impl Fn(&str)) {
    if Redis::is_installed(test) {
        check(&Redis::start().url());
    }
    if Postgres::is_installed(test) {
        check(&Postgres::shared().database().url());
    }
}

#[test]
fn a_lease_is_renewed_as_long_as_its_guard_lives() {
    on_each_server("lock_contract::a_lease_is_renewed_as_long_as_its_guard_lives", |url| {
        let ttl = LeasedLock::SHORTEST;
        let (here, there) = (leased(url, ttl), leased(url, ttl));
        assert_eq!(here.loss_mode(), LossMode::ByExpiry);
        let guard = granted(&here, Wait::No);
        let until = Instant::now() + 2 * ttl;
        while Instant::now() < until {
            assert!(there.acquire(&name("1"), Wait::No).unwrap().granted().is_none(), "it ran out");
            thread::sleep(Duration::from_millis(50));
        }
        assert!(guard.is_valid().unwrap());
        drop(guard);
        drop(granted(&there, Wait::No));
    });
}

#[test]
fn a_lease_that_was_not_renewed_in_time_is_lost_for_good() {
    const TEST: &str = "lock_contract::a_lease_that_was_not_renewed_in_time_is_lost_for_good";
    fn lose(url: &str, stop: impl Fn(), go_on: impl Fn()) {
        let (here, there) = (leased(url, LeasedLock::SHORTEST), leased(url, LeasedLock::SHORTEST));
        let old = granted(&here, Wait::No);
        assert!(old.is_valid().unwrap());
        stop();
        // At first nobody can tell: the server does not answer, and the deadline is not over.
        eventually("the deadline is over", || matches!(old.is_valid(), Ok(false)));
        go_on();
        let new = granted(&there, Wait::For(Duration::from_secs(60)));
        assert!(new.fence() > old.fence());
        assert!(!old.is_valid().unwrap());
        // Letting go of what was lost takes nothing from its new holder.
        drop(old);
        assert!(new.is_valid().unwrap());
    }
    if Redis::is_installed(TEST) {
        let redis = Redis::start();
        lose(&redis.url(), || redis.stop_answering(), || redis.answer_again());
    }
    if Postgres::is_installed(TEST) {
        let postgres = Postgres::start();
        lose(&postgres.url(), || postgres.stop_answering(), || postgres.answer_again());
    }
}
