//! Finds out what is known of jobs.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};

use super::{Judgement, Limits, Subject, judge};
use crate::{
    clock::Clock,
    dir::{Dir, StateDir},
    error::{Error, Result},
    job::{
        JobFiles, Look, ServerJobs, Totals,
        definition::{Alerts, Definition, Sources},
    },
    name::Name,
    queue,
};

/// What is to be checked.
pub(crate) struct Check<'a> {
    /// The state directory, if it is there.
    pub(crate) state: Option<StateDir>,
    /// The server where the jobs are instead.
    pub(crate) server: Option<ServerJobs>,
    pub(crate) sources: Sources,
    /// What the command line takes for wrong.
    pub(crate) alerts: Alerts,
    pub(crate) clock: &'a dyn Clock,
}

/// The jobs to judge, each with what defines it, or why it cannot be judged.
type Candidates = BTreeMap<Name, Result<Option<Definition>>>;

/// Jobs that have left files, each with the slots that have a lock file. (Listing the directory for each of thousands of
/// jobs takes longer than a monitoring system waits.)
type Known = BTreeMap<Name, Vec<u32>>;

impl Check<'_> {
    /// Judges one job.
    ///
    /// # Errors
    /// `NoSuchJob` when no file defines it and it has never run; or the state directory cannot be read.
    pub(crate) fn job(&self, job: &Name, no_such_job: impl FnOnce(&[Name]) -> Error) -> Result<Judgement> {
        let jobs = self.jobs()?;
        let definition = self.sources.definition(job);
        let known = self.known(jobs.as_ref())?;
        if let Ok(None) = definition {
            if !known.contains_key(job) {
                let mut others: Vec<_> = known.into_keys().collect();
                others.extend(self.sources.all().definitions.into_iter().map(|definition| definition.name));
                return Err(no_such_job(&others));
            }
        }
        let mut judged = self.judge(jobs.as_ref(), &known, Candidates::from([(job.clone(), definition)]))?;
        Ok(judged.remove(0))
    }

    /// Judges all jobs that a file defines and all that have run, in byte order; then the files that cannot be
    /// understood.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub(crate) fn all(&self) -> Result<Vec<Judgement>> {
        let jobs = self.jobs()?;
        let all = self.sources.all();
        let mut candidates = Candidates::new();
        let mut rest = Vec::new();
        // One mistake of a job is enough to say that nothing is known of it.
        for problem in all.problems {
            match problem.job.as_deref().and_then(|job| job.parse::<Name>().ok()) {
                Some(job) => drop(candidates.entry(job).or_insert_with(|| Err(problem.into_error()))),
                None => rest.push(Judgement::broken(problem.path.display().to_string(), problem.into_error())),
            }
        }
        for definition in all.definitions {
            candidates.entry(definition.name.clone()).or_insert(Ok(Some(definition)));
        }
        let known = self.known(jobs.as_ref())?;
        for job in known.keys() {
            candidates.entry(job.clone()).or_insert(Ok(None));
        }
        let mut judged = self.judge(jobs.as_ref(), &known, candidates)?;
        judged.append(&mut rest);
        Ok(judged)
    }

    fn jobs(&self) -> Result<Option<Arc<Dir>>> {
        Ok(self.state.as_ref().map(JobFiles::directory).transpose()?.flatten())
    }

    fn known(&self, jobs: Option<&Arc<Dir>>) -> Result<Known> {
        if let Some(server) = &self.server {
            return Ok(server.all()?.into_iter().map(|job| (job.job, Vec::new())).collect());
        }
        let all = jobs.map(JobFiles::all).transpose()?.unwrap_or_default();
        Ok(all.into_iter().map(|(files, slots)| (files.job, slots)).collect())
    }

    /// What its server knows of a job; no lock to be looked at besides.
    fn judge_on(&self, server: &ServerJobs, candidates: Candidates) -> Result<Vec<Judgement>> {
        let mut known: BTreeMap<_, _> = server.all()?.into_iter().map(|job| (job.job.clone(), job)).collect();
        let now = server.now()?;
        let judged = candidates.into_iter().map(|(job, definition)| {
            let read = definition.and_then(|definition| {
                let limits = Limits::of(&self.alerts, definition.as_ref())?;
                let (totals, slots) = known.remove(&job).map(|job| (job.totals, job.slots)).unwrap_or_default();
                let slots = slots.into_iter().map(|slot| slot.presence).collect();
                let defined = definition.as_ref().and_then(changed);
                let tick = definition.and_then(|definition| definition.settings.tick);
                Ok(judge(&Subject { job: job.clone(), limits, totals, slots, defined, tick, stranded: 0 }, now))
            });
            read.unwrap_or_else(|e| Judgement::broken(job.as_str(), e))
        });
        Ok(judged.collect())
    }

    fn judge(&self, jobs: Option<&Arc<Dir>>, known: &Known, candidates: Candidates) -> Result<Vec<Judgement>> {
        if let Some(server) = &self.server {
            return self.judge_on(server, candidates);
        }
        // What the locks are compared with is read before them.
        let read = candidates.into_iter().map(|(job, definition)| {
            let read = self.read(jobs, &job, definition);
            (job, read)
        });
        let read: Vec<_> = read.collect();
        let look = Look::now()?;
        let judged = read.into_iter().map(|(job, read)| {
            let judged = read.and_then(|(files, mut subject)| {
                if let Some(files) = files {
                    let slots = known.get(&job).map(Vec::as_slice).unwrap_or_default();
                    let (totals, slots) = look.slots(&files, subject.totals, slots)?;
                    subject.totals = totals;
                    subject.slots = slots.into_iter().map(|slot| slot.presence).collect();
                }
                Ok(judge(&subject, self.clock.now()))
            });
            judged.unwrap_or_else(|e| Judgement::broken(job.as_str(), e))
        });
        Ok(judged.collect())
    }

    /// What is known of a job before its locks are looked at.
    fn read(
        &self,
        jobs: Option<&Arc<Dir>>,
        job: &Name,
        definition: Result<Option<Definition>>,
    ) -> Result<(Option<JobFiles>, Subject)> {
        let definition = definition?;
        let limits = Limits::of(&self.alerts, definition.as_ref())?;
        let files = jobs.map(|dir| JobFiles::new(Arc::clone(dir), job.clone()));
        let totals = match &files {
            Some(files) => {
                files.verify_end()?;
                files.totals()?.unwrap_or_default()
            }
            None => Totals::default(),
        };
        let defined = definition.as_ref().and_then(changed);
        let stranded = match &files {
            Some(files) if totals.queued > 0 => queue::stranded(files)?,
            _ => 0,
        };
        // (Files have no ticks.)
        Ok((files, Subject { job: job.clone(), limits, totals, slots: Vec::new(), defined, tick: None, stranded }))
    }
}

/// When the job's file was last changed.
fn changed(definition: &Definition) -> Option<DateTime<Utc>> {
    let modified = std::fs::metadata(&definition.path).and_then(|metadata| metadata.modified());
    modified.ok().map(DateTime::from)
}
