//! Jobs that files define: `[jobs.nightly]` with a command, a description, and any option of `run` as a key.
//!
//! A mistake in one job must not stop the others, and a job must not run on half of what its file says. So to run a job
//! only what concerns it is judged: its own table and the file around the tables must be without mistake, and a file that
//! cannot be read at all matters only when nothing else tells what to run (or when it was named). `doctor` judges
//! everything.

mod job_file;
mod program;
mod sources;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use super::{Options, settings::Settings};
use crate::{
    config::{Problem, nearest},
    error::{Error, Result},
    name::Name,
};

use job_file::JobFile;
pub(crate) use sources::Sources;

/// A job as a file defines it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Definition {
    pub(crate) name: Name,
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// What it is for.
    pub(crate) description: Option<String>,
    /// How it is run, where the file says so.
    pub(crate) settings: Settings,
    /// When a scheduler starts it.
    pub(crate) schedule: Schedule,
    /// When something is wrong with it.
    pub(crate) alerts: Alerts,
    /// The file.
    pub(crate) path: PathBuf,
    /// The line at which its definition begins.
    pub(crate) line: usize,
}

/// When and as whom a scheduler starts a job, as its file says. The scheduler's own tool judges the words, when the job is
/// installed or examined: a start must not pay for that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// systemd's calendar events, systemd.time(7).
    pub(crate) on_calendar: Vec<Placed>,
    /// The five fields of crontab(5), or a word such as `@daily`.
    pub(crate) cron: Vec<Placed>,
    /// The user of a job that the system's scheduler starts.
    pub(crate) user: Option<Placed>,
}

/// A value, and the line of the file where it stands, for whoever finds it wrong later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// What `check` takes for wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Alerts {
    /// A success is due at least so often.
    pub(crate) expect_every: Option<Duration>,
    /// So many failures in a row are critical.
    pub(crate) alert_after: Option<u32>,
    /// A run that lasts longer is.
    pub(crate) alert_running: Option<Duration>,
    /// So many skips in a row are a warning.
    pub(crate) alert_skips: Option<u32>,
}

/// What is to be run, and how.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    pub(crate) options: Options,
    /// As whom a scheduler would start it.
    pub(crate) user: Option<String>,
}

/// Every definition, and everything that is wrong.
#[derive(Debug, Default)]
pub(crate) struct All {
    /// Those without a mistake, in the order in which they were found.
    pub(crate) definitions: Vec<Definition>,
    pub(crate) problems: Vec<Problem>,
    /// How many files were read.
    pub(crate) files: usize,
}

impl Sources {
    /// What a command line comes to: the job's own command from its file, or the one that was given, which is for jobs
    /// without a file only: two commands under one name would be two jobs under one lock.
    ///
    /// # Errors
    /// `BadConfiguration` when a file that defines the job has a mistake, `Usage` when it has two commands or its
    /// options contradict each other, `NoSuchJob` when it has none.
    pub(crate) fn resolve(&self, job: &Name, given: Vec<OsString>, line: Settings) -> Result<Resolved> {
        let found = self.find(job)?;
        if let (Self::Only(_), Some(problem)) = (self, &found.unreadable) {
            // Somebody named it.
            return Err(problem.clone().into_error());
        }
        match found.definition {
            Some(definition) if given.is_empty() => {
                let options = line.over(definition.settings).lower()?;
                let user = definition.schedule.user.map(|user| user.text);
                Ok(Resolved { command: definition.command, options, user })
            }
            Some(Definition { path, line, .. }) => Err(Error::Usage(format!(
                "job {job} has its command in {} (line {line}); leave the command out, or name the job otherwise",
                path.display()
            ))),
            None if !given.is_empty() => Ok(Resolved { command: given, options: line.lower()?, user: None }),
            None => Err(self.nothing(job, found.unreadable, || {
                format!("give a command, `triplock run {job} -- COMMAND`, or define [jobs.{job}] in {self}")
            })),
        }
    }

    /// The definition of a job that must have one.
    ///
    /// # Errors
    /// `BadConfiguration` when a file that defines it has a mistake or none can be read, `NoSuchJob` when none does.
    pub(crate) fn required(&self, job: &Name) -> Result<Definition> {
        let found = self.find(job)?;
        found.definition.ok_or_else(|| self.nothing(job, found.unreadable, || format!("define [jobs.{job}] in {self}")))
    }

    fn nothing(&self, job: &Name, unreadable: Option<Problem>, otherwise: impl FnOnce() -> String) -> Error {
        match unreadable {
            Some(problem) => problem.into_error(),
            None => Error::NoSuchJob { job: job.clone(), why: self.what_instead(job, otherwise) },
        }
    }

    /// The definition of a job, if a file has one.
    ///
    /// # Errors
    /// `BadConfiguration` when a file that defines the job, or may define it, has a mistake.
    pub(crate) fn definition(&self, job: &Name) -> Result<Option<Definition>> {
        match self.find(job)? {
            Found { definition: None, unreadable: Some(problem) } => Err(problem.into_error()),
            found => Ok(found.definition),
        }
    }

    /// The definition of one job. Only files that may define it are parsed.
    ///
    /// # Errors
    /// `BadConfiguration` when a file that defines it has a mistake, or a second one does.
    fn find(&self, job: &Name) -> Result<Found> {
        let mut found = Found::default();
        let mut result = Ok(());
        self.visit(me(), |path, text| {
            let text = match text {
                Ok(text) => text,
                Err(problem) => {
                    found.unreadable.get_or_insert(problem);
                    return;
                }
            };
            // An escape in a quoted key can spell any name.
            if !(text.contains(job.as_str()) || text.contains('\\')) || result.is_err() {
                return;
            }
            let mut file = JobFile::understand(path, &text);
            if !file.claims(job, &text) {
                return;
            }
            // A mistake in another job of the file is that job's.
            let concerns = |problem: &Problem| problem.job.as_deref().is_none_or(|about| about == job.as_str());
            if let Some(at) = file.problems.iter().position(concerns) {
                result = Err(file.problems.swap_remove(at));
                return;
            }
            let Some(definition) = file.definitions.into_iter().find(|definition| definition.name == *job) else {
                return;
            };
            match &found.definition {
                Some(first) => result = Err(twice(first, &definition)),
                None => found.definition = Some(definition),
            }
        });
        result.map_err(Problem::into_error)?;
        Ok(found)
    }

    /// Every definition, and everything that is wrong.
    pub(crate) fn all(&self) -> All {
        self.all_for(me())
    }

    /// The same as that user's triplock would see it.
    pub(crate) fn all_for(&self, user: u32) -> All {
        let mut all = All::default();
        self.visit(user, |path, text| {
            let text = match text {
                Ok(text) => text,
                Err(problem) => return all.problems.push(problem),
            };
            all.files += 1;
            let mut file = JobFile::understand(path, &text);
            for definition in file.definitions {
                match all.definitions.iter().find(|first| first.name == definition.name) {
                    Some(first) => file.problems.push(twice(first, &definition)),
                    None => all.definitions.push(definition),
                }
            }
            file.problems.sort_by_key(|problem| problem.line);
            all.problems.extend(file.problems);
        });
        all
    }

    fn what_instead(&self, job: &Name, otherwise: impl FnOnce() -> String) -> String {
        let all = self.all();
        let names = all.definitions.iter().map(|definition| definition.name.as_str());
        match nearest(job.as_str(), names) {
            Some(meant) => format!("did you mean {meant}?"),
            None => otherwise(),
        }
    }
}

#[derive(Default)]
struct Found {
    definition: Option<Definition>,
    /// A file or directory that might define the job as well.
    unreadable: Option<Problem>,
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn twice(first: &Definition, second: &Definition) -> Problem {
    let Definition { name, path, line, .. } = first;
    let why = format!("job {name} is defined in {} (line {line}) already; remove one of the two", path.display());
    Problem { path: second.path.clone(), line: second.line, why, job: Some(second.name.to_string()) }
}

#[cfg(test)]
mod tests;
