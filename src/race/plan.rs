//! A race before it is run.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::Duration,
};

use super::{
    Delay, LockKind, Matrix, Promise, RaceError, Report,
    locks::{LockSite, ServerPlace, needs_server},
    processes,
    report::Run,
    student::Student,
    threads,
    tracker::Tracker,
};
use crate::{
    clock::{Clock as _, SystemClock},
    error::Error,
    lock::Wait,
    store::StoreUrl,
};

/// What the students are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// Threads of one process.
    Threads,
    /// Processes of one machine.
    Processes,
    /// Processes that share no directory for locks, as on separate machines.
    Hosts,
}

impl Place {
    /// Every place, the smaller first.
    pub const ALL: [Self; 3] = [Self::Threads, Self::Processes, Self::Hosts];

    /// The word for it on the command line and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
            Self::Hosts => "hosts",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|place| place.word() == given);
        found.ok_or_else(|| format!("there are these places: {}", Self::ALL.map(Self::word).join(", ")))
    }
}

/// Who races for how many seats, and how.
#[derive(Debug, Clone)]
pub struct Race {
    /// How many students, 1 to [`Race::MAX_STUDENTS`]; each wants one seat.
    pub students: u32,
    /// How many seats trip 1 has, at least 1.
    pub seats: u32,
    /// How long a student waits between check and act.
    pub delay: Delay,
    /// Chooses the delays: the same seed gives each student the same delay.
    pub seed: u64,
    /// How long a student waits for a lock that another holds; `None`: in line until it is served, else not at all.
    pub wait: Option<Wait>,
    /// The `triplock` program that students in processes run; `None` means the program that is running.
    pub program: Option<PathBuf>,
    /// The servers of the locks that are on one: at most one of each kind.
    pub stores: Vec<StoreUrl>,
}

impl Default for Race {
    /// Two students, one seat, nobody waits for a lock but in line.
    fn default() -> Self {
        Self { students: 2, seats: 1, delay: Delay::default(), seed: 1, wait: None, program: None, stores: Vec::new() }
    }
}

impl Race {
    /// The most students: each may be a process.
    pub const MAX_STUDENTS: u32 = 1000;

    /// With more students than this the races of a matrix are run one after another, else they would hold up each
    /// other's students between check and act.
    const MAX_AT_ONCE: u32 = 8;

    /// The shortest wait that surely lets everybody check before anybody acts.
    const SURE_OVERLAP: Duration = Duration::from_millis(50);

    /// What must come of it, if anything must.
    pub fn promise(&self, lock: LockKind, place: Place) -> Promise {
        if lock.holds_in(place) {
            Promise::Safe
        } else if self.students > self.seats && self.delay.min() >= Self::SURE_OVERLAP {
            Promise::Unsafe
        } else {
            Promise::Nothing
        }
    }

    /// Runs it once, in a fresh private directory under the system's temporary one, which is removed again.
    ///
    /// # Errors
    /// When the race cannot be set up or a student fails. That two students got one seat is no error.
    pub fn run(&self, lock: LockKind, place: Place) -> Result<Report, RaceError> {
        if !(1..=Self::MAX_STUDENTS).contains(&self.students) {
            let why = format!("{} students cannot race, only 1 to {}", self.students, Self::MAX_STUDENTS);
            return Err(Error::Usage(why).into());
        }
        if self.seats == 0 {
            return Err(Error::Usage("a race needs at least 1 seat".to_owned()).into());
        }
        let server = match self.server_of(lock)? {
            Some(url) => Some((url, ServerPlace::reserve(url)?)),
            None => None,
        };
        let dir = tempfile::Builder::new().prefix("triplock-race-").tempdir();
        let dir = dir.map_err(|source| Error::cannot_create(std::env::temp_dir(), source))?;
        let tracker = Tracker::create(dir.path(), self.seats)?;
        let wait = self.wait.unwrap_or(lock.usual_wait());
        let students: Vec<Student> = (1..=self.students)
            .zip(self.delay.of_students(self.seed))
            .map(|(number, delay)| Student { number, delay, wait })
            .collect();
        let name = match &server {
            Some((_, place)) => place.name().clone(),
            None => LockSite::usual_name(),
        };
        let site = |state: &Path| LockSite {
            state: state.to_owned(),
            name: name.clone(),
            server: server.as_ref().map(|(url, _)| (*url).clone()),
        };
        let begun = (super::moment::Moment::now(), SystemClock.now());
        let (start, heard) = match place {
            Place::Threads => threads::run(lock, dir.path(), &site(dir.path()), &students)?,
            Place::Processes | Place::Hosts => {
                let program = self.program.clone().map_or_else(std::env::current_exe, Ok);
                let program = program.map_err(|e| Error::io("find", "the running program", e))?;
                let site = |student: u32| match place {
                    Place::Hosts => site(&dir.path().join(format!("host-{student}"))),
                    _ => site(dir.path()),
                };
                processes::run(&program, lock, dir.path(), site, &students)?
            }
        };
        let run = Run {
            start,
            started: begun.1 + start.since(begun.0),
            heard,
            seats_left: tracker.seats_left()?,
            bookings: tracker.bookings()?,
        };
        dir.close().map_err(|e| Error::io("remove", "the race's temporary directory", e))?;
        Ok(Report::of(self, lock, place, run))
    }

    /// The server that the lock is on; `None` when it needs none.
    ///
    /// # Errors
    /// `Usage`, when it needs one and none was named.
    pub(crate) fn server_of(&self, lock: LockKind) -> Result<Option<&StoreUrl>, Error> {
        let Some(kind) = lock.server() else { return Ok(None) };
        let server = self.stores.iter().find(|url| url.kind() == kind);
        server.map(Some).ok_or_else(|| needs_server(lock))
    }

    /// Runs it with every lock in every place, in the order of [`LockKind::ALL`] and [`Place::ALL`], but for locks
    /// whose server is not known. Small races run at the same time, each in a directory of its own.
    ///
    /// # Errors
    /// The first failure, as [`Race::run`].
    pub fn matrix(&self) -> Result<Matrix, RaceError> {
        let is_known = |lock: &LockKind| self.server_of(*lock).is_ok();
        let (run, not_run): (Vec<_>, Vec<_>) = LockKind::ALL.into_iter().partition(is_known);
        let cells = run.into_iter().flat_map(|lock| Place::ALL.map(|place| (lock, place)));
        let rows: Result<Vec<Report>, RaceError> = if self.students > Self::MAX_AT_ONCE {
            cells.map(|(lock, place)| self.run(lock, place)).collect()
        } else {
            thread::scope(|scope| {
                let running: Vec<_> = cells.map(|(lock, place)| scope.spawn(move || self.run(lock, place))).collect();
                let end = |panic| std::panic::resume_unwind(panic);
                running.into_iter().map(|row| row.join().unwrap_or_else(end)).collect()
            })
        };
        Ok(Matrix { rows: rows?, not_run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_lock_promises() {
        let race = Race::default();
        let row = |lock| Place::ALL.map(|place| race.promise(lock, place));
        assert_eq!(row(LockKind::None), [Promise::Unsafe; 3]);
        assert_eq!(row(LockKind::Memory), [Promise::Safe, Promise::Unsafe, Promise::Unsafe]);
        assert_eq!(row(LockKind::File), [Promise::Safe, Promise::Safe, Promise::Unsafe]);
        assert_eq!(row(LockKind::Queue), row(LockKind::File));
        assert_eq!(row(LockKind::Redis), [Promise::Safe; 3]);
        assert_eq!(row(LockKind::Postgres), [Promise::Safe; 3]);
    }

    #[test]
    fn luck_is_not_promised() {
        let enough = Race { seats: 2, ..Race::default() };
        let short = Race { delay: Delay::from_millis(0, 5).unwrap(), ..Race::default() };
        for race in [enough, short] {
            assert_eq!(race.promise(LockKind::None, Place::Processes), Promise::Nothing);
            assert_eq!(race.promise(LockKind::File, Place::Processes), Promise::Safe);
        }
    }

    #[test]
    fn nobody_and_nothing_cannot_race() {
        for race in [
            Race { students: 0, ..Race::default() },
            Race { students: Race::MAX_STUDENTS + 1, ..Race::default() },
            Race { seats: 0, ..Race::default() },
        ] {
            assert!(matches!(race.run(LockKind::None, Place::Threads), Err(RaceError::Setup(Error::Usage(_)))));
        }
    }

    #[test]
    fn a_program_that_is_no_student_is_reported() {
        let race = Race { program: Some("/bin/true".into()), ..Race::default() };
        let error = race.run(LockKind::None, Place::Processes).unwrap_err();
        assert!(matches!(error, RaceError::Student { .. }), "{error}");
        let race = Race { program: Some("/nonexistent/triplock".into()), ..Race::default() };
        let error = race.run(LockKind::None, Place::Processes).unwrap_err().to_string();
        assert!(error.contains("student 1") && error.contains("/nonexistent/triplock"), "{error}");
    }
}
