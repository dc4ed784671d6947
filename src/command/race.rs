//! `race`, and the hidden `race-student` that one of its processes is.

use std::{
    fmt::Display,
    io::{self, Write as _},
    time::Duration,
};

use serde::Serialize;

use crate::{
    cli,
    exit::ExitCode,
    lock::{Deferred, Wait},
    output::Output,
    race::{LockKind, Matrix, Order, Place, Race, RaceError, Report, TRIP, Table, Tale, Verdict},
};

/// Runs the races that were asked for and says how they came out.
pub(super) fn race(output: &Output, global: &cli::Global, args: &cli::Race) -> anyhow::Result<ExitCode> {
    // A signal must not leave the temporary directory behind: it ends the race, and the race cleans up.
    let _deferred = Deferred::begin();
    let race = Race {
        students: args.students,
        seats: args.seats,
        delay: args.delay,
        // Short enough to be typed again.
        seed: args.seed.unwrap_or_else(|| fastrand::u32(..).into()),
        wait: if args.nonblock { Some(Wait::No) } else { args.wait.map(Wait::For) },
        program: None,
        stores: super::servers(global)?,
    };
    let mut not_run = Vec::new();
    let (rows, ok, last) = match args.lock {
        _ if args.matrix => {
            say(output, &format!("Every lock, in threads, in processes and in hosts: {}\n", terms(&race)))?;
            let matrix = race.matrix().map_err(edge)?;
            let Matrix { rows, not_run: others } = matrix;
            not_run = others;
            say(output, &Table { rows: &rows, not_run: &not_run, color: output.in_color() })?;
            let ok = all_as_promised(&rows);
            (rows, ok, format!("\n{}", matrix_ending(ok)))
        }
        Some(lock) => {
            race.server_of(lock)?;
            let row = step(output, &race, None, lock, args.place)?;
            let ok = row.is_right();
            let last = single_ending(&row);
            (vec![row], ok, last)
        }
        None => {
            let unlocked = step(output, &race, Some(1), LockKind::None, args.place)?;
            say(output, &"")?;
            let locked = step(output, &race, Some(2), cure(&race, args.place), args.place)?;
            let last = format!("\n{}", lesson(&unlocked, &locked));
            let rows = vec![unlocked, locked];
            let ok = all_as_promised(&rows);
            (rows, ok, last)
        }
    };
    let summary = Summary::of(&race, &rows, &not_run, ok);
    forgive_closed_pipe(output.result(&mut io::stdout().lock(), &summary, || last))?;
    Ok(if ok { ExitCode::Success } else { ExitCode::Unsafe })
}

/// Is one student.
pub(super) fn student(global: &cli::Global, args: &cli::RaceStudent) -> anyhow::Result<ExitCode> {
    let order = Order {
        dir: args.dir.clone(),
        state: global.state_dir.clone().unwrap_or_else(|| args.dir.clone()),
        student: args.student,
        lock: args.lock,
        name: args.name.clone(),
        store: if args.lock.server().is_some() { super::store::inherited(global)? } else { None },
        delay: Duration::from_millis(args.delay_ms),
        wait: args.wait_ms.map_or(Wait::No, |ms| Wait::For(Duration::from_millis(ms))),
        parent: args.parent,
    };
    order.attend()?;
    Ok(ExitCode::Success)
}

/// Which lock the lesson ends with: the one on a file; between hosts, that of the first server.
fn cure(race: &Race, place: Place) -> LockKind {
    match (place, race.stores.first()) {
        (Place::Hosts, Some(server)) => LockKind::on(server.kind()),
        _ => LockKind::File,
    }
}

/// Runs one race and tells it.
fn step(output: &Output, race: &Race, number: Option<u32>, lock: LockKind, place: Place) -> anyhow::Result<Report> {
    let title = number.map_or_else(String::new, |number| format!("Step {number}. "));
    say(output, &format!("{title}Lock: {lock}; students in {place}: {}\n", terms(race)))?;
    let report = race.run(lock, place).map_err(edge)?;
    say(output, &Tale { report: &report, color: output.in_color() })?;
    Ok(report)
}

fn terms(race: &Race) -> String {
    let plural = |n: u32| if n == 1 { "" } else { "s" };
    let Race { students, seats, delay, seed, .. } = race;
    format!("{students} student{} for {seats} seat{}, --delay {delay} --seed {seed}", plural(*students), plural(*seats))
}

fn all_as_promised(rows: &[Report]) -> bool {
    rows.iter().all(Report::as_promised)
}

fn lesson(unlocked: &Report, locked: &Report) -> String {
    let ended = |row: &Report| format!("{} ({} left)", row.verdict(), row.seats_left);
    let lock = locked.lock;
    match (unlocked.verdict(), locked.verdict()) {
        _ if !lock.holds_in(locked.place) => format!(
            "Each host has a lock file of its own, so it kept nobody out: without a lock {}, with the {lock} lock {}. For \
             a lock that all hosts see, give --store redis://HOST or postgres://HOST/DATABASE.",
            ended(unlocked),
            ended(locked)
        ),
        (_, Verdict::Oversold | Verdict::LostUpdate) => {
            format!("The {lock} lock failed: {}. It must not; please report it with the seed.", ended(locked))
        }
        (Verdict::Safe, Verdict::Safe) if unlocked.as_promised() => {
            "Both came out safe: the first by luck or because there were seats enough, the second by its lock."
                .to_owned()
        }
        (Verdict::Safe, Verdict::Safe) => {
            "Without a lock it came out safe as well, by luck: on a busy machine the students missed each other; \
             try longer delays."
                .to_owned()
        }
        (_, Verdict::Safe) => format!(
            "The same students with the same delays: without a lock {}, with the {lock} lock {}.",
            ended(unlocked),
            ended(locked)
        ),
    }
}

fn single_ending(row: &Report) -> String {
    let (lock, place) = (row.lock, row.place);
    if row.in_order() == Some(false) {
        return format!("Lock {lock} let somebody overtake among {place}; please report it with the seed.");
    }
    match (row.verdict(), lock.holds_in(place)) {
        (Verdict::Safe, true) if row.in_order().is_some() => format!(
            "Trip {TRIP} was sold right: lock {lock} keeps out other {place}, and serves them in the order of arrival."
        ),
        (Verdict::Safe, true) => format!("Trip {TRIP} was sold right: lock {lock} keeps out other {place}."),
        (Verdict::Safe, false) => {
            format!("Trip {TRIP} was sold right, by luck: lock {lock} does not keep out other {place}.")
        }
        (_, false) => format!("Trip {TRIP} was sold wrong: lock {lock} does not keep out other {place}."),
        (_, true) => {
            format!(
                "Trip {TRIP} was sold wrong though lock {lock} keeps out other {place}; please report it with the seed."
            )
        }
    }
}

fn matrix_ending(ok: bool) -> &'static str {
    if ok {
        "Each came out as its lock promises: a lock helps only if everybody who races can see it."
    } else {
        "Not each came out as its lock promises (NO)."
    }
}

/// What `--json` prints: see docs/json.md.
#[derive(Serialize)]
struct Summary<'a> {
    trip: &'a str,
    students: u32,
    seats: u32,
    delay_ms: Range,
    seed: u64,
    wait_seconds: Option<f64>,
    rows: &'a [Report],
    not_run: Vec<NotRun>,
    ok: bool,
}

/// A lock of the matrix whose server is not known.
#[derive(Serialize)]
struct NotRun {
    lock: &'static str,
    why: &'static str,
}

#[derive(Serialize)]
struct Range {
    min: u64,
    max: u64,
}

impl<'a> Summary<'a> {
    fn of(race: &Race, rows: &'a [Report], not_run: &[LockKind], ok: bool) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            trip: TRIP,
            students: race.students,
            seats: race.seats,
            delay_ms: Range { min: millis(race.delay.min()), max: millis(race.delay.max()) },
            seed: race.seed,
            wait_seconds: match race.wait {
                Some(Wait::For(wait)) => Some(wait.as_secs_f64()),
                Some(Wait::No | Wait::Forever) | None => None,
            },
            rows,
            not_run: not_run.iter().map(|lock| NotRun { lock: lock.word(), why: lock.what_to_give() }).collect(),
            ok,
        }
    }
}

/// Text as it comes; nothing under `--json` or `-q`.
fn say(output: &Output, text: &impl Display) -> io::Result<()> {
    if output.json || output.quiet {
        return Ok(());
    }
    forgive_closed_pipe(writeln!(io::stdout().lock(), "{text}"))
}

/// A reader that has seen enough is a normal end; the exit code still tells.
fn forgive_closed_pipe(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| io::Error::new(e.kind(), format!("cannot write to standard output: {e}"))),
    }
}

/// The typed error, so that it finds its own exit code.
fn edge(error: RaceError) -> anyhow::Error {
    match error {
        RaceError::Setup(error) => error.into(),
        other => other.into(),
    }
}
