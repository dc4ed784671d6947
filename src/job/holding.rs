//! Who holds a lock that was not had, for the line that says so.
//!
//! The note in a lock file is what its last triplock left there. `flock -n NAME.lock` writes none, and then the note is of a
//! run that is long over; and a run writes its own a moment after it has the lock. So the note is believed only if
//! /proc/locks names its process, or cannot tell.

use std::time::Duration;

use crate::{
    lock::{FileLock, Holder, shortened},
    process::{LockTable, command_line, info},
};

/// How often a note is looked at again that may be about to be written, and how long after the last look.
const LOOKS: u32 = 5;
const NOTING: Duration = Duration::from_millis(1);

/// Who holds a lock.
#[derive(Debug)]
pub(super) enum By {
    Run(Holder),
    /// What a run started, whose wrapper is gone.
    Leftover(Holder),
    /// Somebody who leaves no notes.
    Stranger {
        pid: u32,
        command: String,
    },
    /// Nobody at this moment, and others wait for it.
    Waiters,
    Unknown,
}

impl By {
    /// The same for somebody who came when others waited for it already. At a release nobody has it for a moment, and the note
    /// is of who had it before; that they wait is always true.
    pub(super) fn find_behind_others(locks: &FileLock, files: &[String], noted: Option<Holder>) -> Self {
        let is_held = LockTable::read().map_or(true, |table| {
            let mut ids = files.iter().filter_map(|file| locks.note_of(file).ok()?.map(|(_, id)| id));
            ids.any(|id| !table.takers(id).is_empty())
        });
        match is_held.then(|| Self::find(locks, files, noted)) {
            None | Some(Self::Unknown) => Self::Waiters,
            Some(by) => by,
        }
    }

    /// `noted`: what the note said when the lock was not had. Of several files, one that a run holds is enough.
    pub(super) fn find(locks: &FileLock, files: &[String], mut noted: Option<Holder>) -> Self {
        let mut stranger = None;
        for look in 0..LOOKS {
            if look > 0 {
                std::thread::sleep(NOTING);
            }
            stranger = None;
            let Ok(table) = LockTable::read() else { break };
            for file in files {
                let Ok(Some((note, id))) = locks.note_of(file) else { continue };
                let takers = table.takers(id);
                match (note, takers.first()) {
                    (Some(note), Some(_)) if takers.contains(&note.pid) => {
                        let is_there = info(note.pid).is_some();
                        return if is_there { Self::Run(note) } else { Self::Leftover(note) };
                    }
                    (_, Some(taker)) if *taker != 0 => stranger = stranger.or(Some(*taker)),
                    // It was let go meanwhile, or the table does not tell: what is noted is the best there is.
                    (Some(note), _) if info(note.pid).is_some() => noted = Some(note),
                    _ => {}
                }
            }
            // The note of somebody who is gone may be about to be replaced, by a holder whom the table has missed.
            if stranger.is_none() && noted.as_ref().is_none_or(|noted| info(noted.pid).is_some()) {
                break;
            }
        }
        match (stranger, noted) {
            (_, Some(noted)) if stranger.is_none_or(|pid| pid == noted.pid) && info(noted.pid).is_none() => {
                Self::Leftover(noted)
            }
            (Some(pid), _) => {
                let command = command_line(pid).unwrap_or_else(|| "it has ended".to_owned());
                Self::Stranger { pid, command: shortened(std::iter::once(command)) }
            }
            (None, Some(noted)) => Self::Run(noted),
            (None, None) => Self::Unknown,
        }
    }
}
