//! Students as threads of this process.

use std::{
    path::Path,
    sync::{RwLock, mpsc},
    thread,
};

use super::{
    failure::RaceError,
    gathering::{Gathering, Heard},
    lock_kind::LockKind,
    locks::{LockSite, Locks},
    message::Message,
    moment::Moment,
    student::{Stop, Student},
    tracker::Tracker,
};

/// A student needs little; a thousand of them should not reserve gigabytes.
const STACK_SIZE: usize = 256 * 1024;

/// Runs the students, who share one opened lock.
///
/// The gate is a read-write lock that this thread holds for writing while it starts the students, each of whom asks
/// for it for reading: released, it lets all of them in together. (A barrier would leave those already started
/// waiting for ever if one more could not be started.) Its value says whether the race takes place.
pub(super) fn run(
    kind: LockKind,
    dir: &Path,
    site: &LockSite,
    students: &[Student],
) -> Result<(Moment, Vec<Heard>), RaceError> {
    let (tracker, locks) = (Tracker::open(dir), Locks::open(kind, site)?);
    let gate = RwLock::new(false);
    thread::scope(|scope| {
        // Dropped when this closure returns, also early: then the gate opens with `false`.
        let mut closed = gate.write().expect("nobody has touched it yet");
        let (tell, hear) = mpsc::channel::<Message>();
        for student in students {
            let tell = tell.clone();
            let tell = move |message: &Message| tell.send(message.clone()).map_err(|_| Stop::CalledOff);
            let (gate, tracker, locks, student) = (&gate, &tracker, &locks, *student);
            let run = move || {
                if tell(&Message::Ready { student: student.number }).is_ok() && gate.read().is_ok_and(|go| *go) {
                    student.race(tracker, locks, tell);
                }
            };
            thread::Builder::new().stack_size(STACK_SIZE).spawn_scoped(scope, run).map_err(|e| RaceError::Student {
                student: student.number,
                why: format!("cannot start its thread: {e}; try fewer students"),
            })?;
        }
        // Only the students hold it now: the channel ends with the last of them, also when one panics.
        drop(tell);
        let mut gathering = Gathering::of(students.len());
        gathering.until_ready(&hear, |_| Ok(()))?;
        let start = Moment::now();
        *closed = true;
        drop(closed);
        gathering.until_done(&hear, |_| Ok(()))?;
        Ok((start, gathering.into_heard()))
    })
}
