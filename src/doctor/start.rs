//! A command line that cron or systemd starts, and which state directory it will use.

use std::{
    fmt,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    confinement::Service,
    installed::Installed,
    machine::{Machine, User},
    shell::{Call, Variables},
    stores::FILES,
};
use crate::{
    config::{Configuration, Places},
    dir::{Environment, StateDir},
    error::Error,
    name::Name,
    store::StoreChoice,
};

/// What a command line of triplock asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) state_dir: Option<PathBuf>,
    /// The store that it names, if it names one.
    pub(crate) store: Option<StoreChoice>,
    pub(crate) subject: Subject,
}

/// What it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Subject {
    Run {
        job: Name,
        has_command: bool,
        config: Option<PathBuf>,
    },
    /// Another command about a job.
    Job(Name),
    Trip(Name),
    /// `update` of a file.
    Update(PathBuf),
    /// The file that `flock` locks, and the job in whose ledger that is recorded.
    LockFile {
        path: PathBuf,
        job: Option<Name>,
    },
    #[default]
    Nothing,
}

/// Tells what a command line asks for, or what is wrong with it. Its first word is the program.
pub(crate) type Understand<'a> = &'a dyn Fn(&[String]) -> Result<Asked, String>;

/// Where a command line stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    /// `alice's crontab`, `triplock@nightly.service`; nothing where the file's path says it.
    pub(super) of: Option<String>,
    pub(super) path: PathBuf,
    pub(super) line: usize,
}

/// A command line that a scheduler starts.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) at: At,
    pub(super) user: User,
    pub(super) environment: Variables,
    /// As it is written.
    pub(super) program: String,
    pub(super) asked: Asked,
    /// The unit, if it is one's.
    pub(super) service: Option<Rc<Service>>,
    /// When `install` wrote it.
    pub(super) installed: Option<Rc<Installed>>,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.of {
            Some(of) if self.path.as_os_str().is_empty() => write!(f, "{of} line {}", self.line),
            Some(of) => write!(f, "{of} ({} line {})", self.path.display(), self.line),
            None => write!(f, "{} line {}", self.path.display(), self.line),
        }
    }
}

impl Subject {
    /// What is locked, for people and to compare.
    pub(super) fn locked(&self) -> Option<String> {
        match self {
            Self::Run { job, .. } | Self::Job(job) | Self::LockFile { job: Some(job), .. } => {
                Some(format!("job {job}"))
            }
            Self::Trip(trip) => Some(format!("trip {trip}")),
            Self::Update(file) => Some(format!("update of {}", file.display())),
            Self::LockFile { job: None, .. } | Self::Nothing => None,
        }
    }
}

impl Start {
    /// What a call of ours comes to; `None` when nothing can be said of it, `Err` with what is wrong.
    pub(super) fn new(
        machine: &Machine,
        at: &At,
        user: &User,
        call: Call,
        service: Option<&Rc<Service>>,
        understand: Understand<'_>,
    ) -> Result<Option<Self>, String> {
        let Call { program, arguments, mut environment, user: other, is_certain } = call;
        if !is_certain {
            return Ok(None);
        }
        let user = match other {
            Some(name) => {
                let user = machine.user(&name);
                if let Some(home) = &user.home {
                    environment.insert("HOME".to_owned(), home.to_string_lossy().into_owned());
                }
                user
            }
            None => user.clone(),
        };
        let words: Vec<_> = [program.clone()].into_iter().chain(arguments).collect();
        let asked = understand(&words)?;
        Ok(Some(Self { at: at.clone(), user, environment, program, asked, service: service.cloned(), installed: None }))
    }

    /// A variable that is set and not empty: an empty one means nothing to triplock.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// What chooses its state directory and job files, with the paths as they are seen from here.
    pub(super) fn environment(&self, machine: &Machine) -> Environment {
        let var = |name: &str| self.get(name).map(Into::into);
        let config_home = self.get("XDG_CONFIG_HOME").map(PathBuf::from);
        let config_home = config_home.or_else(|| self.get("HOME").map(|home| Path::new(home).join(".config")));
        Environment {
            state_dir: var("TRIPLOCK_STATE_DIR"),
            store: var("TRIPLOCK_STORE"),
            store_password: var("TRIPLOCK_STORE_PASSWORD"),
            store_password_file: var("TRIPLOCK_STORE_PASSWORD_FILE"),
            pgpassword: var("PGPASSWORD"),
            pgpassfile: var("PGPASSFILE"),
            xdg_state_home: var("XDG_STATE_HOME"),
            xdg_runtime_dir: var("XDG_RUNTIME_DIR"),
            xdg_config_home: config_home.map(|path| if path.is_absolute() { machine.at(path) } else { path }.into()),
            config: self.get("TRIPLOCK_CONFIG").map(|path| machine.at(path).into()),
            home: var("HOME"),
            machine_config: machine.environment.machine_config.as_ref().map(|path| machine.at(path)),
        }
    }

    /// Where it is started, of what `install` wrote; a line of somebody else's may go anywhere first.
    pub(super) fn directory(&self) -> Option<PathBuf> {
        self.installed.as_ref()?;
        match &self.service {
            Some(service) if service.unit.last("Service", "WorkingDirectory").is_some() => None,
            Some(service) if service.is_system => Some("/".into()),
            _ => self.get("HOME").map(PathBuf::from),
        }
    }

    /// The store that it will use: its URL or `files`; `None` when that cannot be told.
    pub(super) fn store(&self, machine: &Machine) -> Option<String> {
        // flock(1) locks what it is given, whatever the store is.
        if matches!(self.asked.subject, Subject::LockFile { .. }) {
            return None;
        }
        let choice = match (&self.asked.store, self.get("TRIPLOCK_STORE")) {
            (Some(choice), _) => choice.clone(),
            (None, Some(given)) => given.parse().ok()?,
            (None, None) => {
                let places = Places::of(&self.environment(machine)).ok()?;
                let told = Configuration::new(places, self.user.uid?);
                told.store().ok()?.map_or(StoreChoice::Files, |told| told.value.clone())
            }
        };
        Some(choice.into_url().map_or_else(|| FILES.to_owned(), |url| url.to_string()))
    }

    /// The state directory that it will use; `None` when that cannot be told.
    pub(super) fn state_dir(&self, machine: &Machine) -> Option<Result<PathBuf, Error>> {
        if let Some(dir) = &self.asked.state_dir {
            // A relative one depends on where it is started.
            return dir.is_absolute().then(|| Ok(dir.clone()));
        }
        if let Some(dir) = self.get("TRIPLOCK_STATE_DIR").map(Path::new) {
            return dir.is_absolute().then(|| Ok(dir.to_owned()));
        }
        Some(StateDir::default_path_of(&self.environment(machine), self.user.uid?))
    }
}
