//! The files of one job: `NAME.` and one suffix without a dot, in the state directory's `jobs/`.

use std::{collections::BTreeMap, sync::Arc};

use super::Options;
use crate::{
    dir::{Dir, StateDir},
    error::Result,
    name::Name,
};

/// Where a job's files are.
#[derive(Debug, Clone)]
pub(crate) struct JobFiles {
    pub(crate) dir: Arc<Dir>,
    pub(crate) job: Name,
    /// The runs and non-runs, a line each.
    pub(crate) ledger: String,
    /// The ledger before this one.
    pub(crate) old: String,
    /// Who appends. The job's lock cannot say it: it is held as long as the job runs, and a run that is skipped
    /// meanwhile is recorded too.
    pub(crate) commit: String,
}

const LEDGER: &str = "jsonl";
const OLD: &str = "old";
const COMMIT: &str = "commit";
const LOGS: &str = "logs";
const QUEUE: &str = "queue";
const LOCK: &str = "lock";
const SLOT: &str = "slot";

impl JobFiles {
    pub(crate) fn new(dir: Arc<Dir>, job: Name) -> Self {
        let file = |suffix: &str| format!("{job}.{suffix}");
        Self { ledger: file(LEDGER), old: file(OLD), commit: file(COMMIT), dir, job }
    }

    /// The lock of a slot, from 1: `NAME.lock`, `NAME.slot2` …
    pub(crate) fn lock(&self, slot: u32) -> String {
        let job = &self.job;
        if slot <= 1 { format!("{job}.{LOCK}") } else { format!("{job}.{SLOT}{slot}") }
    }

    /// The file in that directory which says that its lane is paused.
    pub(crate) const PAUSED: &str = "paused";

    /// Whether its lane is paused.
    pub(crate) fn is_paused(&self) -> Result<bool> {
        Ok(self.dir.stat(&format!("{}/{}", self.queue(), Self::PAUSED))?.is_some())
    }

    /// The directory of who stands in its lane: `NAME.queue`.
    pub(crate) fn queue(&self) -> String {
        format!("{}.{QUEUE}", self.job)
    }

    /// The directory of the jobs' files, if there is one.
    pub(crate) fn directory(state: &StateDir) -> Result<Option<Arc<Dir>>> {
        Ok(state.subdirectory("jobs")?.map(Arc::new))
    }

    /// The same, made when it is missing.
    pub(crate) fn make_directory(state: &StateDir) -> Result<Arc<Dir>> {
        Ok(Arc::new(state.make_subdirectory("jobs")?))
    }

    /// Every job that has a file there, in byte order, with the slots that have a lock file.
    pub(crate) fn all(dir: &Arc<Dir>) -> Result<Vec<(Self, Vec<u32>)>> {
        let names = dir.names()?;
        let mut jobs = BTreeMap::<Name, Vec<u32>>::new();
        for name in &names {
            let Some((job, suffix)) = name.rsplit_once('.') else { continue };
            let Ok(job) = job.parse::<Name>() else { continue };
            let slot = slot_of(suffix);
            if slot.is_some() || [LEDGER, OLD, COMMIT, LOGS, QUEUE].contains(&suffix) {
                jobs.entry(job).or_default().extend(slot);
            }
        }
        let sorted = |mut slots: Vec<u32>| {
            slots.sort_unstable();
            slots
        };
        Ok(jobs.into_iter().map(|(job, slots)| (Self::new(Arc::clone(dir), job), sorted(slots))).collect())
    }

    /// The slots that have a lock file.
    pub(crate) fn slots(&self) -> Result<Vec<u32>> {
        let of = |name: &String| slot_of(name.strip_prefix(self.job.as_str())?.strip_prefix('.')?);
        let mut slots: Vec<_> = self.dir.names()?.iter().filter_map(of).collect();
        slots.sort_unstable();
        Ok(slots)
    }

    /// Whether the job has left any file.
    pub(crate) fn exist(&self) -> Result<bool> {
        for name in [&self.ledger, &self.lock(1), &self.old, &self.commit] {
            if self.dir.stat(name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Which slot's lock a file with that suffix is.
fn slot_of(suffix: &str) -> Option<u32> {
    if suffix == LOCK {
        return Some(1);
    }
    let number = suffix.strip_prefix(SLOT)?;
    let slot = number.parse().ok().filter(|slot| (2..=Options::MAX_SLOTS).contains(slot))?;
    // `+2` and `02` are numbers, and no names of ours.
    (slot.to_string() == number).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_suffix_cannot_be_taken_for_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let dir = JobFiles::make_directory(&StateDir::open(directory.path(), false).unwrap()).unwrap();
        for name in [
            "a.lock",
            "a.slot2",
            "a.slot64",
            "a.lock.jsonl",
            "b.old",
            "c.commit",
            "a.slot65",
            "a.slot02",
            "a.slot1",
            "x.tmp",
            "noise",
        ] {
            dir.open_or_create(name).unwrap();
        }
        let all = JobFiles::all(&dir).unwrap();
        let all: Vec<_> = all.iter().map(|(files, slots)| (files.job.as_str(), slots.as_slice())).collect();
        assert_eq!(all, [("a", &[1, 2, 64][..]), ("a.lock", &[]), ("b", &[]), ("c", &[])]);
        let files = JobFiles::new(dir, "a".parse().unwrap());
        assert_eq!(files.slots().unwrap(), [1, 2, 64]);
        assert_eq!((files.lock(1), files.lock(2)), ("a.lock".to_owned(), "a.slot2".to_owned()));
    }
}
