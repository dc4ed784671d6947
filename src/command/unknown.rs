//! A job that has left nothing in the state directory: one that a file defines has not run yet, which is no mistake; of
//! any other the name is a slip.

use crate::{
    dir::Environment,
    error::{Error, Result},
    job::definition::Sources,
    name::Name,
};

/// What is said of a job that a file defines.
pub(super) const NOT_YET: &str = "it has not run yet";

/// The job is known: a file defines it.
#[derive(Debug)]
pub(super) struct NeverRun;

/// Tells the two apart. `others`: the jobs that have run.
///
/// # Errors
/// `NoSuchJob` when no file defines it either.
pub(super) fn judge(job: &Name, others: &[Name]) -> Result<NeverRun> {
    let mut known = defined();
    if known.contains(job) {
        return Ok(NeverRun);
    }
    known.extend(others.iter().cloned());
    Err(no_such_job(job, &known))
}

/// The message about a job that has not run yet.
pub(super) fn never_run(job: &Name) -> String {
    format!("{job}: {NOT_YET}")
}

/// The error, with the name that was meant, or may have been.
pub(super) fn no_such_job(job: &Name, others: &[Name]) -> Error {
    let likeness = |other: &&Name| strsim::jaro_winkler(job.as_str(), other.as_str());
    let near = others.iter().filter(|other| likeness(other) > 0.8);
    let why = match near.max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
        Some(near) => format!("did you mean {near}?"),
        None => "`triplock status` shows those there are".to_owned(),
    };
    Error::NoSuchJob { job: job.clone(), why }
}

/// The jobs that files define. (What is wrong with a file is `doctor`'s to say.)
pub(super) fn defined() -> Vec<Name> {
    let sources = Sources::new(None, &Environment::current());
    let definitions = sources.map(|sources| sources.all().definitions).unwrap_or_default();
    definitions.into_iter().map(|definition| definition.name).collect()
}
