//! `triplock race`: real threads, real processes.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use triplock::{
    lock::Wait,
    race::{Delay, LockKind, Place, Race, RaceError, Verdict},
};

use crate::servers::{Database, Postgres, Redis};

/// A `triplock race` whose temporary files have a directory of their own.
pub(crate) struct Racing {
    tmp: TempDir,
    arguments: Vec<String>,
    store: Option<String>,
}

pub(crate) fn race(arguments: &str) -> Racing {
    let arguments = arguments.split_whitespace().map(str::to_owned).collect();
    Racing { tmp: tempfile::tempdir().unwrap(), arguments, store: None }
}

/// The same with a store in its environment.
fn race_with(store: &str, arguments: &str) -> Racing {
    Racing { store: Some(store.to_owned()), ..race(arguments) }
}

impl Racing {
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triplock"));
        command.arg("race").args(&self.arguments).env("TMPDIR", self.tmp.path()).env_remove("TRIPLOCK_STATE_DIR");
        match &self.store {
            Some(store) => command.env("TRIPLOCK_STORE", store),
            None => command.env_remove("TRIPLOCK_STORE"),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end, with that exit code and nothing left behind.
    #[track_caller]
    fn exits(&self, code: i32) -> Output {
        let output = self.command().output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{self_:?}: {}", said(&output), self_ = self.arguments);
        self.left_nothing();
        output
    }

    #[track_caller]
    pub(crate) fn prints(&self, code: i32) -> String {
        let output = self.exits(code);
        assert!(output.stderr.is_empty(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, code: i32) -> Value {
        let printed = self.prints(code);
        assert_eq!(printed.lines().count(), 1, "one object on one line");
        serde_json::from_str(&printed).unwrap()
    }

    #[track_caller]
    fn left_nothing(&self) {
        let left: Vec<_> = fs::read_dir(self.tmp.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Parent and state of a process; `None` when there is none.
fn stat(pid: i32) -> Option<(i32, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, also spaces and parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(_, state)| state != 'Z')
}

/// The students of a race with a file lock and long delays, once one has the lock and the others wait for it.
#[track_caller]
fn waiting_students(racing: &Racing, parent: &Child, count: usize) -> Vec<i32> {
    let parent = i32::try_from(parent.id()).unwrap();
    // A holder writes its note after winning.
    let lock_is_taken = || {
        let mut races = fs::read_dir(racing.tmp.path()).unwrap();
        let lock = races.next().map(|race| race.unwrap().path().join("locks/1.lock"));
        lock.is_some_and(|lock| fs::metadata(lock).is_ok_and(|lock| lock.len() > 0))
    };
    wait_until("a student holds the lock", || lock_is_taken().then_some(()));
    let students = children_of(parent);
    assert_eq!(students.len(), count);
    students
}

fn children_of(parent: i32) -> Vec<i32> {
    let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    numbers.filter(|pid| stat(*pid).is_some_and(|(ppid, state)| ppid == parent && state != 'Z')).collect()
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[test]
fn two_students_get_the_one_seat_and_then_the_lock_ends_it() {
    let told = race("--seed 42").prints(0);
    let (race, lock) = told.split_once("Step 2.").expect("two steps");
    for student in 1..=2 {
        for saw in ["checking trip 1", "sees 1 seat", "waits ", "booked: "] {
            assert!(race.contains(&format!("student {student}  {saw}")), "student {student} {saw}: {told}");
        }
    }
    assert!(
        race.contains("Final seat count: -1\n") && race.contains("Verdict: oversold (2 bookings for 1 seat)"),
        "{told}"
    );
    assert!(lock.contains("trip 1 is locked, try later"), "{told}");
    assert!(lock.contains("Final seat count: 0\n") && lock.contains("Verdict: safe (1 booking for 1 seat)"), "{told}");
    assert!(told.ends_with("without a lock oversold (-1 left), with the file lock safe (0 left).\n"), "{told}");
}

#[test]
fn the_matrix_shows_which_lock_holds_where() {
    // (A seed whose delays are far apart: two that book in the same millisecond lose an update instead of overselling.)
    let matrix = race("--matrix --json --seed 7").json(0);
    assert_eq!(rows(&matrix), json!(without_a_server()));
    assert_eq!(matrix["ok"], true);
    let not_run: Vec<_> = matrix["not_run"].as_array().unwrap().iter().map(|lock| lock["lock"].clone()).collect();
    assert_eq!(json!(not_run), json!(["redis", "postgres"]));
}

/// What came of each race of a matrix.
fn rows(matrix: &Value) -> Value {
    let row = |row: &Value| {
        let bookings = row["bookings"].as_array().unwrap().len();
        json!([row["lock"], row["in"], bookings, row["seats_left"], row["verdict"]])
    };
    matrix["rows"].as_array().unwrap().iter().map(row).collect()
}

/// What must come of those that need no server.
fn without_a_server() -> Vec<Value> {
    vec![
        json!(["none", "threads", 2, -1, "oversold"]),
        json!(["none", "processes", 2, -1, "oversold"]),
        json!(["none", "hosts", 2, -1, "oversold"]),
        json!(["memory", "threads", 1, 0, "safe"]),
        json!(["memory", "processes", 2, -1, "oversold"]),
        json!(["memory", "hosts", 2, -1, "oversold"]),
        json!(["file", "threads", 1, 0, "safe"]),
        json!(["file", "processes", 1, 0, "safe"]),
        json!(["file", "hosts", 2, -1, "oversold"]),
        json!(["queue", "threads", 1, 0, "safe"]),
        json!(["queue", "processes", 1, 0, "safe"]),
        json!(["queue", "hosts", 2, -1, "oversold"]),
    ]
}

/// What must come of those with a lock that is on a server.
fn of_server(lock: &str) -> Vec<Value> {
    ["threads", "processes", "hosts"].map(|place| json!([lock, place, 1, 0, "safe"])).to_vec()
}

#[test]
fn a_matrix_with_servers_runs_their_locks_everywhere_and_leaves_nothing_there() {
    const TEST: &str = "race::a_matrix_with_servers_runs_their_locks_everywhere_and_leaves_nothing_there";
    if !Redis::is_installed(TEST) || !Postgres::is_installed(TEST) {
        return;
    }
    let (redis, database) = (Redis::start(), Postgres::shared().database());
    let servers = format!("--store {} --store {}", redis.url(), database.url());
    let matrix = race(&format!("--matrix --json {servers}")).json(0);
    let expected: Vec<_> =
        without_a_server().into_iter().chain(of_server("redis")).chain(of_server("postgres")).collect();
    assert_eq!(rows(&matrix), json!(expected));
    assert_eq!((&matrix["ok"], &matrix["not_run"]), (&json!(true), &json!([])));
    assert_eq!(redis.cli(["KEYS", "*race-*"]), "");
    let dump = dump(&database);
    assert!(!dump.contains("race-"), "{dump}");

    // One of them is a matrix as well, and the other is named as not run.
    let told = race_with(&redis.url(), "--matrix").prints(0);
    assert!(
        told.contains("\nredis     hosts ") && told.contains("\npostgres  not run: give --store postgres://"),
        "{told}"
    );
}

/// Every row of every table of ours.
fn dump(database: &Database<'_>) -> String {
    let tables = database.sql(
        "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name) FROM information_schema.tables \
         WHERE table_schema NOT IN ('pg_catalog', 'information_schema')",
    );
    let row = |table: &str| database.sql(&format!("SELECT t::text FROM {table} t"));
    tables.lines().map(row).collect::<Vec<_>>().join("\n")
}

#[test]
fn between_hosts_a_lock_of_a_server_ends_what_a_lock_file_does_not() {
    let told = race("--in hosts --delay 300-350").prints(0);
    assert!(told.contains("Each host has a lock file of its own"), "{told}");
    assert_eq!(told.matches("Verdict: oversold").count(), 2, "{told}");
    if !Redis::is_installed("race::between_hosts_a_lock_of_a_server_ends_what_a_lock_file_does_not") {
        return;
    }
    let redis = Redis::start();
    let told = race_with(&redis.url(), "--in hosts --delay 300-350").prints(0);
    assert!(told.contains("Step 2. Lock: redis; students in hosts"), "{told}");
    assert!(told.ends_with("without a lock oversold (-1 left), with the redis lock safe (0 left).\n"), "{told}");
}

#[test]
fn students_wait_for_a_lock_of_a_server() {
    const TEST: &str = "race::students_wait_for_a_lock_of_a_server";
    let race = |url: &str, lock: &str, place: &str| {
        let arguments = format!("--lock {lock} --in {place} --students 12 --seats 5 -w 60 --delay 1-3 --json");
        let told = race_with(url, &arguments).json(0);
        assert_eq!(told["rows"][0]["bookings"].as_array().unwrap().len(), 5, "{lock} in {place}");
    };
    for place in Place::ALL.map(Place::word) {
        if Redis::is_installed(TEST) {
            race(&Redis::start().url(), "redis", place);
        }
        if Postgres::is_installed(TEST) {
            race(&Postgres::shared().database().url(), "postgres", place);
        }
    }
}

#[test]
fn a_lock_of_a_server_says_what_it_needs() {
    for (lock, why) in [("redis", "give --store redis://HOST"), ("postgres", "give --store postgres://HOST/DATABASE")] {
        let said = said(&race(&format!("--lock {lock}")).exits(64));
        assert!(said.contains(why), "{said}");
    }
    // The other kind of server is of no help.
    let said = |racing: &Racing, code| said(&racing.exits(code));
    assert!(said(&race_with("redis://127.0.0.1", "--lock postgres"), 64).contains("give --store postgres://"));
    assert!(said(&race("--store redis://a --store redis://b"), 64).contains("two redis servers"));
    // Nobody listens there: the race does not begin.
    let gone = said(&race("--lock redis --store redis://127.0.0.1:1"), 69);
    assert!(!gone.contains("student 1  "), "{gone}");
}

#[test]
fn no_url_is_on_a_students_command_line() {
    if !Redis::is_installed("race::no_url_is_on_a_students_command_line") {
        return;
    }
    let redis = Redis::start();
    let racing = race_with(&redis.url(), "--lock redis --in hosts --delay 60000-60000 -w 60");
    let parent = racing.command().spawn().unwrap();
    let is_held = || !redis.cli(["KEYS", "*race-*"]).is_empty();
    wait_until("a student holds the lock", || is_held().then_some(()));
    let students = children_of(i32::try_from(parent.id()).unwrap());
    assert_eq!(students.len(), 2);
    for student in &students {
        let words = fs::read_to_string(format!("/proc/{student}/cmdline")).unwrap();
        assert!(words.contains("race-student") && !words.contains("://"), "{words}");
    }
    signal(i32::try_from(parent.id()).unwrap(), Signal::TERM);
    let output = parent.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(71), "{}", said(&output));
    assert!(!is_held(), "a race that is called off cleans up as well");
    racing.left_nothing();
}

#[test]
fn the_table_is_aligned() {
    let told = race("--matrix --delay 300-400").prints(0);
    let table: Vec<&str> = told.lines().skip_while(|line| !line.starts_with("lock ")).take(15).collect();
    let column = table[0].find("as promised").unwrap();
    assert_eq!(table.len(), 15);
    for row in &table[1..13] {
        assert!(row[column..].starts_with("yes ("), "{told}");
    }
    assert!(table[13].starts_with("redis     not run: give --store redis://HOST"), "{told}");
    assert!(table[14].starts_with("postgres  not run: give --store postgres://HOST/DATABASE"), "{told}");
}

#[test]
fn the_exit_code_says_whether_it_was_safe() {
    for (lock, place, code) in [
        ("none", "threads", 1),
        ("none", "processes", 1),
        ("memory", "threads", 0),
        ("memory", "processes", 1),
        ("file", "threads", 0),
        ("file", "processes", 0),
        ("none", "hosts", 1),
        ("memory", "hosts", 1),
        ("file", "hosts", 1),
        ("queue", "threads", 0),
        ("queue", "processes", 0),
        ("queue", "hosts", 1),
    ] {
        let quiet = race(&format!("--lock {lock} --in {place} --delay 300-350 -q")).prints(code);
        assert_eq!(quiet, "", "-q says nothing");
    }
}

#[test]
fn the_json_is_versioned_and_ordered() {
    let told = race("--lock none --students 3 --seats 2 --delay 300-399 --seed 5 --json").json(1);
    let (head, row) = (|key: &str| told[key].clone(), &told["rows"][0]);
    assert_eq!(
        (head("format"), head("trip"), head("students"), head("seats")),
        (json!(1), json!("1"), json!(3), json!(2))
    );
    assert_eq!(
        (head("seed"), head("delay_ms"), head("wait_seconds")),
        (json!(5), json!({"min": 300, "max": 399}), Value::Null)
    );
    assert_eq!((head("ok"), &row["as_promised"], &row["promise"]), (json!(false), &json!(true), &json!("unsafe")));

    let events = row["events"].as_array().unwrap();
    assert!(events.iter().all(|event| event["ms"].as_f64() > Some(0.0)), "nobody starts before the gate opens");
    let words: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let last_check = words.iter().rposition(|word| *word == "saw").unwrap();
    let first_act = words.iter().position(|word| *word == "booked").unwrap();
    assert!(last_check < first_act, "everybody checks before anybody acts: {words:?}");
    let times: Vec<_> = events.iter().map(|event| event["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    for time in times {
        assert!(time.ends_with("+00:00") && chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
    }
    for event in events.iter().filter(|event| event["event"] == "booked") {
        let delay = events.iter().find(|e| e["student"] == event["student"] && e["event"] == "waiting").unwrap();
        assert!(event["ms"].as_f64() >= delay["delay_ms"].as_f64(), "nobody acts before its delay is over");
    }
}

#[test]
fn the_same_seed_gives_the_same_delays() {
    let delays = |arguments: &str| {
        let told = race(&format!("{arguments} --students 4 --seats 4 --delay 50-300 --json -w 60")).json(0);
        let mut delays: Vec<(u64, u64)> = told["rows"][0]["events"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["event"] == "waiting")
            .map(|event| (event["student"].as_u64().unwrap(), event["delay_ms"].as_u64().unwrap()))
            .collect();
        delays.sort_unstable();
        delays
    };
    let first = delays("--lock file --seed 7");
    assert_eq!(first.len(), 4);
    assert_eq!(first, delays("--lock memory --in threads --seed 7"));
    assert_ne!(first, delays("--lock file --seed 8"));
}

#[test]
fn sixty_four_processes_get_forty_seats() {
    let told = race("--students 64 --seats 40 -w 60 --delay 0-5 --lock file --json").json(0);
    let row = &told["rows"][0];
    let mut students: Vec<_> =
        row["bookings"].as_array().unwrap().iter().map(|b| b["student"].as_u64().unwrap()).collect();
    students.sort_unstable();
    students.dedup();
    assert_eq!((students.len(), &row["seats_left"], &row["verdict"]), (40, &json!(0), &json!("safe")));
    let sold_out = row["events"].as_array().unwrap().iter().filter(|event| event["event"] == "sold_out").count();
    assert_eq!(sold_out, 24, "who waits long enough is not told to try later");
}

#[test]
fn sixty_four_processes_without_a_lock_oversell() {
    let told = race("--students 64 --seats 40 --lock none --delay 300-400 --json").json(1);
    assert_eq!(told["rows"][0]["verdict"], "oversold");
    assert_eq!(told["rows"][0]["bookings"].as_array().unwrap().len(), 64, "all of them saw a seat");
}

#[test]
fn threads_can_wait_as_well() {
    for lock in ["memory", "file"] {
        let told =
            race(&format!("--in threads --lock {lock} --students 20 --seats 5 -w 60 --delay 1-3 --json")).json(0);
        assert_eq!(told["rows"][0]["bookings"].as_array().unwrap().len(), 5, "{lock}");
    }
}

#[test]
fn a_wait_that_is_too_short_ends_with_try_later() {
    let told = race("--lock file -w 0.1 --delay 500-500 --json").json(0);
    let events = told["rows"][0]["events"].as_array().unwrap();
    let locked = events.iter().find(|event| event["event"] == "locked").expect("one is told");
    assert!(locked["ms"].as_f64().unwrap() >= 100.0, "{locked}");
    assert_eq!(told["rows"][0]["bookings"].as_array().unwrap().len(), 1);
}

#[test]
fn bad_input_is_a_usage_error() {
    for (arguments, why) in [
        ("--students 0", "1 to 1000"),
        ("--students 1001", "1 to 1000"),
        ("--students x", "1 to 1000"),
        ("--seats 0", "at least 1"),
        ("--seats -1", "1 to 4294967295"),
        ("--seats 18446744073709551616", "1 to 4294967295"),
        ("--delay 500-100", "smaller number first"),
        ("--delay x", "range of milliseconds"),
        ("--delay -5", "range of milliseconds"),
        ("--delay 0-99999999999", "range of milliseconds"),
        ("--delay 0-60001", "too long"),
        ("--lock etcd", "none, memory, file, queue, redis, postgres"),
        ("--lock redis", "give --store redis://HOST"),
        ("--in cloud", "threads, processes, hosts"),
        ("--seed -1", "seed"),
        ("-w x", "seconds"),
        ("-n -w 1", "cannot be used with"),
        ("--matrix --lock file", "cannot be used with"),
        ("--matrix --in threads", "cannot be used with"),
    ] {
        let output = race(arguments).exits(64);
        assert!(output.stdout.is_empty(), "{arguments}");
        assert!(said(&output).contains(why), "{arguments}: {}", said(&output));
    }
}

#[test]
fn a_closed_stdout_is_a_normal_end() {
    for arguments in
        ["--lock file --delay 50-60", "--lock file --delay 50-60 --json", "--matrix --delay 300-310", "--delay 300-310"]
    {
        let racing = race(arguments);
        let mut child = racing.command().spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()), "{arguments}");
        racing.left_nothing();
    }
}

#[test]
fn a_temporary_directory_that_is_not_there_is_one_line() {
    let racing = race("--lock file");
    let output = racing.command().env("TMPDIR", racing.tmp.path().join("missing")).output().unwrap();
    assert_eq!(output.status.code(), Some(73), "{}", said(&output));
    assert_eq!(said(&output).lines().filter(|line| line.contains("cannot create")).count(), 1, "{}", said(&output));
}

#[test]
fn a_killed_student_is_reported_and_ends_the_race() {
    let racing = race("--lock file -w 60 --students 3 --delay 60000-60000");
    let parent = racing.command().spawn().unwrap();
    let students = waiting_students(&racing, &parent, 3);
    let started = Instant::now();
    signal(students[1], Signal::KILL);
    let output = parent.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(71), "{}", said(&output));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("killed by signal 9") && error.lines().count() == 1, "{error}");
    assert!(started.elapsed() < Duration::from_secs(20), "nobody waits for the others' delays");
    assert!(!students.into_iter().any(is_alive));
    racing.left_nothing();
}

#[test]
fn a_killed_race_takes_its_students_along() {
    let racing = race("--lock file --students 3 -w 60 --delay 60000-60000");
    let mut parent = racing.command().spawn().unwrap();
    let students = waiting_students(&racing, &parent, 3);
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until("the students are gone", || (!students.iter().any(|pid| is_alive(*pid))).then_some(()));
}

#[test]
fn a_race_that_is_told_to_end_cleans_up() {
    for (terms, processes, by) in [
        ("--lock file -w 60", 2, Signal::TERM),
        ("--lock file -w 60", 2, Signal::INT),
        ("--lock file -w 60", 2, Signal::HUP),
        ("--lock file -w 60 --in threads", 0, Signal::TERM),
        ("--lock queue --students 4", 4, Signal::TERM),
        ("--lock queue --students 4 --in threads", 0, Signal::TERM),
    ] {
        let racing = race(&format!("{terms} --delay 60000-60000"));
        let parent = racing.command().spawn().unwrap();
        let students = waiting_students(&racing, &parent, processes);
        signal(i32::try_from(parent.id()).unwrap(), by);
        let output = parent.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), None, "it ended by itself");
        assert_eq!(output.status.code(), Some(71), "{}", said(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{}", said(&output));
        assert!(!students.into_iter().any(is_alive));
        racing.left_nothing();
    }
}

#[test]
fn a_student_that_dies_at_the_gate_does_not_hang_the_race() {
    let tmp = tempfile::tempdir().unwrap();
    let program = tmp.path().join("student");
    // Written by another process: while this one has it open for writing, a student forked by another test's thread
    // would inherit that, and the kernel would not run it.
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *'--student 2 '*) exit 9;; esac\nexec '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_triplock")
    );
    write_by_another_process(&program, &text);
    let race =
        Race { students: 3, program: Some(program), delay: Delay::from_millis(1, 2).unwrap(), ..Race::default() };
    match race.run(LockKind::File, Place::Processes).unwrap_err() {
        RaceError::Student { student: 2, why } => assert!(why.contains("exit status: 9"), "{why}"),
        other => panic!("{other}"),
    }
}

fn write_by_another_process(path: &Path, text: &str) {
    let write = "printf %s \"$2\" > \"$1\" && chmod 700 \"$1\"";
    let status = Command::new("/bin/sh").args(["-c", write, "sh"]).arg(path).arg(text).status().unwrap();
    assert!(status.success());
}

#[test]
fn the_library_races_the_same_students() {
    let race = Race {
        students: 8,
        seats: 3,
        delay: Delay::from_millis(0, 3).unwrap(),
        wait: Some(Wait::Forever),
        program: Some(env!("CARGO_BIN_EXE_triplock").into()),
        ..Race::default()
    };
    for place in Place::ALL {
        let report = race.run(LockKind::File, place).unwrap();
        if place != Place::Hosts {
            assert_eq!((report.bookings.len(), report.seats_left, report.verdict()), (3, 0, Verdict::Safe), "{place}");
        }
    }
}
