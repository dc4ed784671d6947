//! Files that people write: `config.toml` and job files.
//!
//! Whoever can change such a file decides what runs, as whom, and where state is kept. So they are read as cron reads
//! its own: regular files of root or of the user who runs triplock, writable by nobody else. Each error has its file,
//! its line, and what to do about it.

mod document;
mod file;
mod global;
mod suggestion;
mod value;

use std::path::{Path, PathBuf};

pub(crate) use document::{Document, Problem};
use file::read_file;
pub(crate) use file::{Opened, open, read_in, read_secret};
pub(crate) use global::{Configuration, Told};
pub(crate) use suggestion::nearest;
pub(crate) use value::{Integer, Value, array, boolean, parsed, text, word};

use crate::{
    dir::Environment,
    error::{Error, Result},
};

/// The directories that may hold configuration: the machine's, then the user's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    pub(crate) machine: Option<PathBuf>,
    pub(crate) user: Option<PathBuf>,
}

impl Places {
    /// Those of an environment.
    ///
    /// # Errors
    /// `Usage` when one is relative: its meaning would change with the working directory.
    pub(crate) fn of(environment: &Environment) -> Result<Self> {
        let (from, base) = match (&environment.xdg_config_home, &environment.home) {
            (Some(base), _) => ("$XDG_CONFIG_HOME", Some(PathBuf::from(base))),
            (None, Some(home)) => ("$HOME", Some(Path::new(home).join(".config"))),
            (None, None) => ("", None),
        };
        let user = base.map(|base| base.join("triplock"));
        if let Some(path) = user.as_ref().filter(|path| path.is_relative()) {
            let path = path.display();
            return Err(Error::Usage(format!("{from} is a relative path: {path}; give an absolute one")));
        }
        Ok(Self { machine: environment.machine_config.clone(), user })
    }
}
