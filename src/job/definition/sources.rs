//! Where job files are.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    config::{self, Opened, Places, Problem},
    dir::Environment,
    error::{Error, Result},
};

/// Where job files are looked for.
#[derive(Debug, Clone)]
pub(crate) enum Sources {
    /// In one file, or in the `.toml` files of one directory, which must be there.
    Only(PathBuf),
    /// In the `.toml` files of these directories, where they are there.
    Directories(Vec<PathBuf>),
}

impl Sources {
    /// The ones that `--config` names, else `$TRIPLOCK_CONFIG`, else the machine's and the user's.
    ///
    /// # Errors
    /// `Usage` when the environment names a relative path.
    pub(crate) fn new(config: Option<&Path>, environment: &Environment) -> Result<Self> {
        if let Some(path) = config {
            return Ok(Self::Only(path.to_owned()));
        }
        if let Some(path) = environment.config.as_ref().map(PathBuf::from) {
            if path.is_relative() {
                let path = path.display();
                return Err(Error::Usage(format!("$TRIPLOCK_CONFIG is a relative path: {path}; give an absolute one")));
            }
            return Ok(Self::Only(path));
        }
        let Places { machine, user } = Places::of(environment)?;
        Ok(Self::Directories([machine, user].into_iter().flatten().map(|place| place.join("jobs.d")).collect()))
    }

    /// The directories among them; one that is named may be a file.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        match self {
            Self::Only(path) => Some(path.clone()).into_iter().filter(|path| path.is_dir()).collect(),
            Self::Directories(paths) => paths.clone(),
        }
    }

    /// Shows each file's text, in order, or why it cannot be read for that user.
    pub(super) fn visit(&self, user: u32, mut each: impl FnMut(&Path, Result<String, Problem>)) {
        match self {
            Self::Only(path) => match config::open(path, user) {
                Ok(Opened::Missing) => {
                    let why = "there is no such file or directory; correct --config or TRIPLOCK_CONFIG";
                    each(path, Err(Problem::of_file(path, why)));
                }
                opened => visit(path, opened, user, &mut each),
            },
            Self::Directories(paths) => paths.iter().for_each(|path| match config::open(path, user) {
                Ok(Opened::File(_)) => {
                    each(path, Err(Problem::of_file(path, "is a file, and a directory belongs there")));
                }
                opened => visit(path, opened, user, &mut each),
            }),
        }
    }
}

fn visit(
    path: &Path,
    opened: Result<Opened, Problem>,
    user: u32,
    each: &mut impl FnMut(&Path, Result<String, Problem>),
) {
    match opened {
        Ok(Opened::Missing) => {}
        Ok(Opened::File(text)) => each(path, Ok(text)),
        Ok(Opened::Directory(directory, files)) => {
            for file in files {
                match config::read_in(&directory, &file, user) {
                    // Removed since the directory was listed, or a link that leads nowhere.
                    Ok(None) => {}
                    Ok(Some(text)) => each(&file, Ok(text)),
                    Err(problem) => each(&file, Err(problem)),
                }
            }
        }
        Err(problem) => each(path, Err(problem)),
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(path) => path.display().fmt(f),
            Self::Directories(paths) => {
                let globs: Vec<_> = paths.iter().map(|path| path.join("*.toml").display().to_string()).collect();
                f.write_str(&globs.join(" or "))
            }
        }
    }
}
