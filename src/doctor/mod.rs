//! A look at everything that can be wrong before it matters: configuration, job files, state, and what keeps shell, cron
//! and systemd from meeting at the same lock.
//!
//! All of it is said at once, each with its place and its fix; nothing is executed, and no lock is taken. Much of what is
//! read belongs to somebody else, so whatever lies there is read in bounded time, and what cannot be read is a note.
//!
//! - `configuration`, `state`, `steps`, `holders`, `access`, `room`, `store`: what triplock itself reads and writes.
//! - `crontabs`, `units` (with `crontab`, `unit` and `shell`, which understand their languages) find the command lines that
//!   start triplock on this machine, each a `Start` with the environment that it gets.
//! - `meeting`, `stores`, `programs`, `users`, `installed`, `confinement`, `lock_files` judge those.

mod access;
mod configuration;
mod confinement;
mod crontab;
mod crontabs;
mod findings;
mod holders;
mod installed;
mod lock_files;
mod machine;
mod meeting;
mod mounts;
mod programs;
mod read;
mod room;
mod shell;
mod start;
mod state;
mod steps;
mod store;
mod stores;
mod unit;
mod units;
mod users;

use std::path::{Path, PathBuf};

use crate::{
    dir::{Environment, StateDir},
    error::{Error, Result},
};

pub(crate) use findings::{Findings, LookedAt, Problem};
use machine::Machine;
pub(crate) use start::{Asked, Subject, Understand};
pub(crate) use store::{Looked, Store};

/// What is to be looked at.
pub(crate) struct Doctor<'a> {
    pub(crate) environment: &'a Environment,
    /// The job files that the command line names.
    pub(crate) config: Option<&'a Path>,
    /// The state directory, or why there is none.
    pub(crate) state: Result<PathBuf>,
    /// The server that is the store, if one is; or why that cannot be told.
    pub(crate) store: Result<Option<Store>>,
    pub(crate) allow_network_fs: bool,
    /// Where the machine's crontabs and units are looked for, if not in `/`.
    pub(crate) root: Option<&'a Path>,
    pub(crate) understand: Understand<'a>,
}

impl Doctor<'_> {
    pub(crate) fn examine(self) -> Findings {
        let mut findings = Findings::default();
        let machine = Machine::new(self.root, self.environment);
        let own = configuration::examine(&machine, self.config, &mut findings);
        let state = match self.state {
            Ok(path) => Some(path),
            // Said already.
            Err(Error::BadConfiguration { .. }) => None,
            Err(e) => findings.keep(Err(e)),
        };
        let own_store = self.store.as_ref().ok().map(|store| match store {
            Some(store) => store.url.to_string(),
            None => stores::FILES.to_owned(),
        });
        match self.store {
            Ok(Some(store)) => store::examine(store, &mut findings),
            Ok(None) => {}
            // What is wrong in config.toml was said already.
            Err(e) => {
                let message = e.to_string();
                if !findings.problems.iter().any(|said| said.to_string() == message) {
                    findings.problem(e);
                }
            }
        }
        let mut starts = crontabs::starts(&machine, self.understand, &mut findings);
        starts.extend(units::starts(&machine, self.understand, &mut findings));
        findings.looked_at.scheduled = starts.len();
        stores::examine(&machine, &starts, own_store.as_deref(), &mut findings);
        // On a server, the directory is not where anybody meets.
        let own_locks = state.as_deref().filter(|_| own_store.as_deref() == Some(stores::FILES));
        meeting::examine(&machine, &starts, own_locks, &mut findings);
        programs::examine(&machine, &starts, &own, &mut findings);
        users::examine(&machine, &starts, &own, state.as_deref(), &mut findings);
        installed::waiting(&machine, &starts, &own, self.config, &mut findings);
        confinement::examine(&machine, &starts, &mut findings);
        lock_files::examine(&machine, &starts, &mut findings);
        if let Some(path) = state {
            let path = std::path::absolute(&path).unwrap_or(path);
            mounts::examine(&machine.mounts, &path, &mut findings);
            let opened = StateDir::open_existing(&path, self.allow_network_fs);
            match findings.keep(opened) {
                Some(Some(state)) => {
                    access::examine(&path, state.is_shared(), &mut findings);
                    room::examine(&machine.mounts, &path, &mut findings);
                    state::examine(state, &mut findings);
                }
                Some(None) => {
                    let note =
                        format!("{}: the state directory is not there yet; the first command makes it", path.display());
                    findings.note(note);
                }
                None => {}
            }
            findings.looked_at.state_dir = Some(path);
        }
        machine.say_unread(&mut findings);
        findings
    }
}
