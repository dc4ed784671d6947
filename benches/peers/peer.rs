//! Everybody who sells seats: how a process of theirs books one, and how many bookings they hold.

use std::{fs, path::PathBuf, process::Command, sync::atomic::AtomicU64, time::Duration};

use crate::{
    drive::{self, Drove, output, run},
    server::{self, Server},
    site::Site,
};

/// Enough for everybody who comes.
const SEATS: u32 = 1_000_000_000;

/// The check and the decrement as Redis does them, in one step. `KEYS`: seats left, bookings; `ARGV`: student, seats.
/// A refusal is a negative number, since redis-benchmark gives up at an error.
pub(crate) const LUA: &str = "\
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return -1 end \
local left = tonumber(redis.call('GET', KEYS[1])) \
if left < tonumber(ARGV[2]) then return -2 end \
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) \
return redis.call('DECRBY', KEYS[1], ARGV[2])";

/// What the tables of both SQL peers are made with.
const SCHEMA: &str = "\
CREATE TABLE trips (trip TEXT PRIMARY KEY, seats_left BIGINT NOT NULL CHECK (seats_left >= 0)); \
CREATE TABLE bookings (trip TEXT NOT NULL, student TEXT NOT NULL, seats BIGINT NOT NULL, PRIMARY KEY (trip, student)); \
INSERT INTO trips VALUES ('1', 1000000000);";

/// One system: a process of it books for the student of the given number.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    command: Box<dyn Fn(u64) -> Command + Sync>,
    booked: Option<Box<dyn Fn() -> u64>>,
    students: AtomicU64,
    _server: Option<Server>,
}

impl Peer {
    fn new(name: &'static str, command: impl Fn(u64) -> Command + Sync + 'static) -> Self {
        Self { name, command: Box::new(command), booked: None, students: AtomicU64::new(0), _server: None }
    }

    fn counting(self, booked: impl Fn() -> u64 + 'static) -> Self {
        Self { booked: Some(Box::new(booked)), ..self }
    }

    /// Books from so many drivers until the time is up.
    pub(crate) fn drive(&self, drivers: usize, time: Duration) -> Drove {
        drive::for_a_while(drivers, time, &self.students, &self.command)
    }

    /// Compares what it holds with what it was asked for.
    pub(crate) fn verify(mut self) {
        if let Some(booked) = &self.booked {
            assert_eq!(booked(), *self.students.get_mut(), "{} does not hold what was booked", self.name);
        }
    }
}

/// The product; `one_lock` chooses the simpler of its commit protocols.
pub(crate) fn triplock(site: &Site, name: &'static str, one_lock: bool) -> Peer {
    let (product, state) = (site.product().to_owned(), site.directory("triplock"));
    let triplock = move || {
        let mut command = Command::new(&product);
        command.env("TRIPLOCK_STATE_DIR", &state).env_remove("TRIPLOCK_COMMIT");
        if one_lock {
            command.env("TRIPLOCK_COMMIT", "one-lock");
        }
        command
    };
    run(triplock().args(["trip", "add", "1", "--seats", &SEATS.to_string()]));
    let show = triplock.clone();
    Peer::new(name, move |student| {
        let mut command = triplock();
        // Nobody is turned away: the others wait as long, too.
        command.args(["book", "1", "--wait", "60", "--student", &student.to_string()]);
        command
    })
    .counting(move || {
        let shown = output(show().args(["--json", "trip", "show", "1"]));
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        let left = shown["seats_left"].as_u64().expect("seats_left");
        u64::from(SEATS) - left
    })
}

/// A whole JSON file, replaced. `held`: begin the next file after so many bookings, which measures the commit and not the
/// growth; without it the file holds the trip's bookings, as everybody else's does.
pub(crate) fn whole_json(site: &Site, name: &'static str, held: Option<u64>) -> Peer {
    let (baseline, directory) = (site.baseline().to_owned(), site.directory(&format!("json-{}", held.unwrap_or(0))));
    let all = directory.clone();
    Peer::new(name, move |student| {
        let mut command = Command::new(&baseline);
        let file = held.map_or(0, |held| student / held);
        command.arg("book").arg(directory.join(file.to_string())).arg(student.to_string());
        command
    })
    .counting(move || {
        fs::read_dir(&all)
            .expect("its directory")
            .map(|trip| {
                let text = fs::read(trip.expect("an entry").path().join("trip.json")).expect("a trip");
                let trip: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
                let held = trip["bookings"].as_array().expect("bookings").len() as u64;
                assert_eq!(trip["seats_left"], 1_000_000 - held, "lost update");
                held
            })
            .sum()
    })
}

pub(crate) fn sqlite(site: &Site) -> Result<Peer, String> {
    let database = site.directory("sqlite").join("trips.db");
    let sqlite = move || {
        let mut command = Command::new("sqlite3");
        command.args(["-batch", "-bail", "-cmd", ".timeout 60000"]).arg(&database);
        command
    };
    Command::new("sqlite3").arg("-version").output().map_err(|error| server::missing("sqlite3", &error))?;
    run(sqlite().arg(format!("PRAGMA journal_mode=WAL; {SCHEMA}")));
    let count = sqlite.clone();
    Ok(Peer::new("sqlite3 CLI (WAL, FULL)", move |student| {
        let mut command = sqlite();
        command.arg(format!(
            "PRAGMA synchronous=FULL; BEGIN IMMEDIATE; UPDATE trips SET seats_left = seats_left - 1 WHERE trip = '1'; \
             INSERT INTO bookings VALUES ('1', '{student}', 1); COMMIT"
        ));
        command
    })
    .counting(move || number(&output(count().arg("SELECT count(*) FROM bookings")))))
}

/// The product with that server as its store.
pub(crate) fn triplock_on(site: &Site, name: &'static str, store: String) -> Peer {
    let product = site.product().to_owned();
    let triplock = move || {
        let mut command = Command::new(&product);
        command.env("TRIPLOCK_STORE", &store);
        command
    };
    run(triplock().args(["trip", "add", "processes", "--seats", &SEATS.to_string()]));
    let show = triplock.clone();
    Peer::new(name, move |student| {
        let mut command = triplock();
        command.args(["book", "processes", "--wait", "60", "--student", &student.to_string()]);
        command
    })
    .counting(move || {
        let shown = output(show().args(["--json", "trip", "show", "processes"]));
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["bookings"], u64::from(SEATS) - shown["seats_left"].as_u64().expect("seats_left"));
        shown["bookings"].as_u64().expect("bookings")
    })
}

pub(crate) fn redis(site: &Site) -> Result<Peer, String> {
    let server = server::redis(site)?;
    let peer = redis_on(server.port);
    Ok(Peer { _server: Some(server), ..peer })
}

/// A hand-written client of that Redis.
pub(crate) fn redis_on(port: u16) -> Peer {
    redis_trip(port, 1);
    Peer::new("redis-cli EVAL (appendfsync always)", move |student| {
        let mut command = redis_cli(port);
        command.args(["-e", "EVAL", LUA, "2", "trip:1:left", "trip:1:bookings", &student.to_string(), "1"]);
        command
    })
    .counting(move || redis_booked(port, 1))
}

/// Gives a Redis a trip.
pub(crate) fn redis_trip(port: u16, trip: usize) {
    run(redis_cli(port).args(["SET", &format!("trip:{trip}:left"), &SEATS.to_string()]));
}

/// How many bookings a Redis holds for a trip.
pub(crate) fn redis_booked(port: u16, trip: usize) -> u64 {
    number(&output(redis_cli(port).args(["HLEN", &format!("trip:{trip}:bookings")])))
}

fn redis_cli(port: u16) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port.to_string()]);
    command
}

pub(crate) fn postgres(site: &Site) -> Result<Peer, String> {
    let server = server::postgres(site)?;
    let programs: PathBuf = server::postgres_programs().ok_or("postgres is not installed")?;
    let peer = postgres_on(programs, server.port);
    Ok(Peer { _server: Some(server), ..peer })
}

/// A hand-written client of that Postgres, with tables of its own in the database `postgres`.
pub(crate) fn postgres_on(programs: PathBuf, port: u16) -> Peer {
    run(server::psql(&programs, port).args(["-c", SCHEMA]));
    let count = programs.clone();
    Peer::new("psql FOR UPDATE (synchronous_commit on)", move |student| {
        let mut command = server::psql(&programs, port);
        // In one message: a round trip for each statement would only make it slower.
        command.arg("-c").arg(format!(
            "BEGIN; SELECT seats_left FROM trips WHERE trip = '1' FOR UPDATE; \
             UPDATE trips SET seats_left = seats_left - 1 WHERE trip = '1'; \
             INSERT INTO bookings VALUES ('1', '{student}', 1); COMMIT"
        ));
        command
    })
    .counting(move || number(&output(server::psql(&count, port).args(["-c", "SELECT count(*) FROM bookings"]))))
}

/// What a process costs that does nothing.
pub(crate) fn no_op(name: &'static str, program: PathBuf, argument: Option<&'static str>) -> Peer {
    Peer::new(name, move |_| {
        let mut command = Command::new(&program);
        command.args(argument);
        command
    })
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}
