//! The state directory: where it is, who may own it, and what is refused.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, Stat},
    io::Errno,
};

use super::{Dir, file_system};
use crate::{
    config::{Configuration, Places, Problem},
    error::{Error, Result},
};

/// What chooses the store, its password, the state directory and the job files besides the command line, read once at the
/// edge.
#[derive(Clone, Default)]
pub struct Environment {
    /// `$TRIPLOCK_STATE_DIR`
    pub state_dir: Option<OsString>,
    /// `$TRIPLOCK_STORE`
    pub store: Option<OsString>,
    /// `$TRIPLOCK_STORE_PASSWORD`
    pub store_password: Option<OsString>,
    /// `$TRIPLOCK_STORE_PASSWORD_FILE`
    pub store_password_file: Option<OsString>,
    /// `$PGPASSWORD`
    pub pgpassword: Option<OsString>,
    /// `$PGPASSFILE`
    pub pgpassfile: Option<OsString>,
    /// `$XDG_STATE_HOME`
    pub xdg_state_home: Option<OsString>,
    /// `$XDG_CONFIG_HOME`
    pub xdg_config_home: Option<OsString>,
    /// `$TRIPLOCK_CONFIG`
    pub config: Option<OsString>,
    /// `$XDG_RUNTIME_DIR`
    pub xdg_runtime_dir: Option<OsString>,
    /// `$HOME`
    pub home: Option<OsString>,
    /// The directory of the machine's configuration, `/etc/triplock`; `None` reads none.
    pub machine_config: Option<PathBuf>,
}

impl Environment {
    /// This process's.
    pub fn current() -> Self {
        let var = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        Self {
            state_dir: var("TRIPLOCK_STATE_DIR"),
            store: var("TRIPLOCK_STORE"),
            store_password: var("TRIPLOCK_STORE_PASSWORD"),
            store_password_file: var("TRIPLOCK_STORE_PASSWORD_FILE"),
            pgpassword: var("PGPASSWORD"),
            pgpassfile: var("PGPASSFILE"),
            xdg_state_home: var("XDG_STATE_HOME"),
            xdg_config_home: var("XDG_CONFIG_HOME"),
            config: var("TRIPLOCK_CONFIG"),
            xdg_runtime_dir: var("XDG_RUNTIME_DIR"),
            home: var("HOME"),
            machine_config: Some(PathBuf::from("/etc/triplock")),
        }
    }
}

/// Without the passwords.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("state_dir", &self.state_dir)
            .field("store_password_file", &self.store_password_file)
            .field("pgpassfile", &self.pgpassfile)
            .field("xdg_state_home", &self.xdg_state_home)
            .field("xdg_config_home", &self.xdg_config_home)
            .field("config", &self.config)
            .field("xdg_runtime_dir", &self.xdg_runtime_dir)
            .field("home", &self.home)
            .field("machine_config", &self.machine_config)
            .finish_non_exhaustive()
    }
}

/// A directory that is fit to hold state: local, and writable by nobody but its owner or its group.
///
/// A lock's path depends on this directory and the name alone: never on the working directory, `/tmp`,
/// `$XDG_RUNTIME_DIR` or a unit's private directories, so that shell, cron and systemd meet at the same file.
#[derive(Debug)]
pub struct StateDir {
    dir: Dir,
}

impl StateDir {
    /// Where state is kept when no `--state-dir` is given: `$TRIPLOCK_STATE_DIR`, else `state_dir` of the user's
    /// `config.toml` or the machine's, else `/var/lib/triplock` for root, else `$XDG_STATE_HOME/triplock`, else
    /// `~/.local/state/triplock`.
    ///
    /// # Errors
    /// `Usage` when none of them tells, or when one is relative: its meaning would change with the working directory.
    /// `BadConfiguration` when `config.toml` is wrong or not to be trusted.
    pub fn default_path(environment: &Environment) -> Result<PathBuf> {
        Self::default_path_of(environment, rustix::process::geteuid().as_raw())
    }

    /// The same for another user, whose environment that is.
    pub(crate) fn default_path_of(environment: &Environment, user: u32) -> Result<PathBuf> {
        let configuration = || Ok(Configuration::new(Places::of(environment)?, user));
        match &environment.state_dir {
            Some(_) => Self::default_path_in(environment, &Configuration::default(), user),
            None => Self::default_path_in(environment, &configuration()?, user),
        }
    }

    /// The same where that is the configuration.
    pub(crate) fn default_path_in(environment: &Environment, told: &Configuration, user: u32) -> Result<PathBuf> {
        let (from, path) = if let Some(dir) = &environment.state_dir {
            ("$TRIPLOCK_STATE_DIR", PathBuf::from(dir))
        } else if let Some(path) = told.state_dir().map_err(Problem::into_error)? {
            return Ok(path.to_owned());
        } else if user == 0 {
            ("root's default", PathBuf::from("/var/lib/triplock"))
        } else if let Some(dir) = &environment.xdg_state_home {
            ("$XDG_STATE_HOME", Path::new(dir).join("triplock"))
        } else if let Some(home) = &environment.home {
            ("$HOME", Path::new(home).join(".local/state/triplock"))
        } else {
            return Err(Error::Usage("no state directory: set --state-dir, TRIPLOCK_STATE_DIR or HOME".to_owned()));
        };
        if path.is_relative() {
            return Err(Error::Usage(format!("{from} is a relative path: {}; give an absolute one", path.display())));
        }
        Ok(path)
    }

    /// Opens the directory, making it (0700) and its parents when they are missing. `allow_network_fs`: also on a
    /// file system where other hosts may not see the locks.
    ///
    /// # Errors
    /// `Denied` when it is world-writable or somebody else's, `UntrustedFileSystem` on a network or unknown file
    /// system (unless allowed), `CannotCreate` when it cannot be made.
    pub fn open(path: impl AsRef<Path>, allow_network_fs: bool) -> Result<Self> {
        let path = path.as_ref();
        match Self::open_existing(path, allow_network_fs)? {
            Some(state) => Ok(state),
            None => {
                // Absolute, so that every part of it has a parent.
                let made = std::path::absolute(path).and_then(|path| make_with_parents(&path));
                made.map_err(|e| Error::cannot_create(path, e))?;
                Self::open_existing(path, allow_network_fs)?
                    .ok_or_else(|| Error::cannot_create(path, io::ErrorKind::NotFound))
            }
        }
    }

    /// Opens the directory, or says that there is none.
    ///
    /// # Errors
    /// As [`StateDir::open`].
    pub fn open_existing(path: impl AsRef<Path>, allow_network_fs: bool) -> Result<Option<Self>> {
        let path = path.as_ref();
        let path = std::path::absolute(path).map_err(|e| Error::io("resolve", path, e))?;
        let cannot = |source: io::Error| Error::cannot_create(path.clone(), source);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            fd => fd,
        };
        let fd = fd.map_err(|errno| match errno {
            Errno::NOTDIR => {
                cannot(io::Error::other("a file is in the way; choose another --state-dir or move the file"))
            }
            Errno::ACCESS => Error::Denied {
                path: path.clone(),
                why: "permission denied; run as its owner, join its group, or choose another --state-dir".to_owned(),
            },
            errno => cannot(errno.into()),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io("stat", &path, e))?;
        let file_mode = judge(&path, &stat)?;
        // The type differs between architectures.
        #[allow(clippy::useless_conversion)]
        let device = u64::from(stat.st_dev);
        if !allow_network_fs {
            if let Some(kind) = file_system::distrust(&fd, device).map_err(|e| Error::io("statfs", &path, e))? {
                return Err(Error::UntrustedFileSystem { path, kind });
            }
        }
        // Where any file system will do, none is looked at.
        let is_local = !allow_network_fs;
        Ok(Some(Self { dir: Dir { fd, path, file_mode, is_local } }))
    }

    /// The directory's absolute path.
    pub fn path(&self) -> &Path {
        &self.dir.path
    }

    /// Whether it was seen to be on a file system of this host alone.
    pub(crate) fn is_local(&self) -> bool {
        self.dir.is_local
    }

    /// Whether a group shares it.
    pub fn is_shared(&self) -> bool {
        self.dir.is_shared()
    }

    /// A directory of ours inside, or `None` when it is missing.
    pub(crate) fn subdirectory(&self, name: &str) -> Result<Option<Dir>> {
        self.dir.subdirectory(name)
    }

    /// The same, made (and its entry synced) when it is missing.
    pub(crate) fn make_subdirectory(&self, name: &str) -> Result<Dir> {
        self.dir.make_subdirectory(name)
    }
}

/// Makes the directory 0700 and its missing parents, and syncs each parent that got a new entry, so that a power cut
/// cannot take away a directory in which something was answered.
fn make_with_parents(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Err(Errno::NOENT) => {
            make_with_parents(parent)?;
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    std::fs::File::open(parent)?.sync_all()
}

/// Who may own the directory, and which mode its files get.
fn judge(path: &Path, stat: &Stat) -> Result<Mode> {
    let denied = |why: &str| Err(Error::Denied { path: path.to_owned(), why: why.to_owned() });
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.contains(Mode::WOTH) {
        return denied(
            "is writable by everybody, so anybody could forge state; chmod o-w it or choose another --state-dir",
        );
    }
    let me = rustix::process::geteuid().as_raw();
    let shared = mode.contains(Mode::WGRP);
    // Root's directory with the group's write bit is the shared one; whether this process is a member, the kernel
    // says at the first file.
    if stat.st_uid != me && !(stat.st_uid == 0 && shared) {
        return denied(&format!(
            "belongs to user {}, and this is user {me}; run as its owner or choose another --state-dir",
            stat.st_uid
        ));
    }
    Ok(if shared { Mode::from_raw_mode(0o660) } else { Mode::from_raw_mode(0o600) })
}
