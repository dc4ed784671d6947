//! Finds out what is known of jobs.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{Judgement, Limits, Subject, judge};
use crate::{
    clock::Clock,
    dir::{Dir, StateDir},
    error::{Error, Result},
    job::{
        JobFiles, Look, Totals,
        definition::{Alerts, Definition, Sources},
    },
    name::Name,
};

/// What is to be checked.
pub(crate) struct Check<'a> {
    /// The state directory, if it is there.
    pub(crate) state: Option<StateDir>,
    pub(crate) sources: Sources,
    /// What the command line takes for wrong.
    pub(crate) alerts: Alerts,
    pub(crate) clock: &'a dyn Clock,
}

/// A job to judge, or why it cannot be judged.
type Candidate = (Name, Result<Option<Definition>>);

impl Check<'_> {
    /// Judges one job.
    ///
    /// # Errors
    /// `NoSuchJob` when no file defines it and it has never run; or the state directory cannot be read.
    pub(crate) fn job(&self, job: &Name, no_such_job: impl FnOnce(&[Name]) -> Error) -> Result<Judgement> {
        let jobs = self.jobs()?;
        let definition = self.sources.definition(job);
        if let Ok(None) = definition {
            let has_run = jobs.as_ref().map(|dir| JobFiles::new(Arc::clone(dir), job.clone()).exist());
            if !has_run.transpose()?.unwrap_or(false) {
                let mut others = known(jobs.as_ref())?;
                others.extend(self.sources.all().definitions.into_iter().map(|definition| definition.name));
                return Err(no_such_job(&others));
            }
        }
        let mut judged = self.judge(jobs.as_ref(), vec![(job.clone(), definition)])?;
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
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut rest = Vec::new();
        // One mistake of a job is enough to say that nothing is known of it.
        for problem in all.problems {
            let job = problem.job.as_deref().and_then(|job| job.parse::<Name>().ok());
            match job {
                Some(job) if candidates.iter().any(|(known, _)| *known == job) => {}
                Some(job) => candidates.push((job, Err(problem.into_error()))),
                None => rest.push(Judgement::broken(problem.path.display().to_string(), problem.into_error())),
            }
        }
        for definition in all.definitions {
            if !candidates.iter().any(|(known, _)| *known == definition.name) {
                candidates.push((definition.name.clone(), Ok(Some(definition))));
            }
        }
        for job in known(jobs.as_ref())? {
            if !candidates.iter().any(|(known, _)| *known == job) {
                candidates.push((job, Ok(None)));
            }
        }
        candidates.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut judged = self.judge(jobs.as_ref(), candidates)?;
        judged.append(&mut rest);
        Ok(judged)
    }

    fn jobs(&self) -> Result<Option<Arc<Dir>>> {
        Ok(self.state.as_ref().map(JobFiles::directory).transpose()?.flatten())
    }

    fn judge(&self, jobs: Option<&Arc<Dir>>, candidates: Vec<Candidate>) -> Result<Vec<Judgement>> {
        // What the locks are compared with is read before them.
        let read: Vec<_> = candidates.into_iter().map(|candidate| self.read(jobs, candidate)).collect();
        let look = Look::now()?;
        let judged = read.into_iter().map(|(job, known)| {
            let judged = known.and_then(|(files, mut subject)| {
                if let Some(files) = files {
                    let (totals, slots) = look.slots(&files, subject.totals, &files.slots()?)?;
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
    #[allow(clippy::type_complexity)]
    fn read(
        &self,
        jobs: Option<&Arc<Dir>>,
        (job, definition): Candidate,
    ) -> (Name, Result<(Option<JobFiles>, Subject)>) {
        let files = jobs.map(|dir| JobFiles::new(Arc::clone(dir), job.clone()));
        let subject = || -> Result<_> {
            let definition = definition?;
            let limits = Limits::of(&self.alerts, definition.as_ref())?;
            let totals = match &files {
                Some(files) => {
                    files.verify_end()?;
                    files.totals()?.unwrap_or_default()
                }
                None => Totals::default(),
            };
            let defined = definition.as_ref().and_then(changed);
            Ok(Subject { job: job.clone(), limits, totals, slots: Vec::new(), defined })
        };
        let subject = subject();
        (job, subject.map(|subject| (files, subject)))
    }
}

/// Every job that has left a file.
fn known(jobs: Option<&Arc<Dir>>) -> Result<Vec<Name>> {
    let all = jobs.map(JobFiles::all).transpose()?.unwrap_or_default();
    Ok(all.into_iter().map(|(files, _)| files.job).collect())
}

/// When the job's file was last changed.
fn changed(definition: &Definition) -> Option<DateTime<Utc>> {
    let modified = std::fs::metadata(&definition.path).and_then(|metadata| metadata.modified());
    modified.ok().map(DateTime::from)
}
