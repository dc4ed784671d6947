//! systemd, told what has changed.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

use super::Scope;
use crate::error::{Error, Result};

const PROGRAM: &str = "systemctl";

#[derive(Debug, Clone, Copy)]
pub(super) struct Systemctl {
    pub(super) scope: Scope,
}

/// How systemd has a timer.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    pub(super) is_enabled: bool,
    pub(super) is_active: bool,
}

impl Systemctl {
    /// Whether it runs; `runtime` is the directory of the user's own.
    ///
    /// # Errors
    /// `NoScheduler` when it does not.
    pub(super) fn is_there(self, runtime: Option<&Path>) -> Result<()> {
        let (is_running, whose) = match self.scope {
            // What sd_booted(3) looks for.
            Scope::System => (Path::new("/run/systemd/system").is_dir(), "no systemd runs on this machine"),
            Scope::User => (
                runtime.is_some_and(|runtime| runtime.join("systemd/private").exists()),
                "no systemd runs for this user",
            ),
        };
        if is_running {
            return Ok(());
        }
        let why = format!("{whose}; use `install cron`, or --dry-run to see the units");
        Err(Error::NoScheduler(why))
    }

    /// How it has the timer. (Nothing is what one that cannot be asked has.)
    pub(super) fn state(self, timer: &str) -> State {
        let is = |word| self.tell(&[word, timer]).is_ok();
        State { is_enabled: is("is-enabled"), is_active: is("is-active") }
    }

    /// Has it start the timer, now and from now on; `afresh`, when it does not run with these very files.
    pub(super) fn begin(self, timer: &str, afresh: bool) -> Result<()> {
        if afresh {
            self.halt(timer);
        }
        self.tell(&["daemon-reload"])?;
        self.tell(&["enable", timer])?;
        self.tell(&["start", timer])
    }

    /// Stops it, and what it remembers of the last time: of new times, one that is past would be made up for at once.
    fn halt(self, timer: &str) {
        let _ = self.tell(&["stop", timer]);
        let _ = self.tell(&["clean", "--what=state", timer]);
    }

    /// Has it as it was, as far as that goes.
    pub(super) fn restore(self, timer: &str, state: State) {
        if state.is_enabled {
            let _ = self.tell(&["enable", timer]);
        }
        if state.is_active {
            let _ = self.tell(&["start", timer]);
        }
    }

    /// Has it stop the timer, and forget when it was due last.
    ///
    /// # Errors
    /// `NoScheduler` when the timer goes on; of one that it does not know there is nothing to stop.
    pub(super) fn end(self, timer: &str) -> Result<()> {
        let ended = self.tell(&["disable", "--now", timer]);
        if ended.is_err() && self.state(timer).is_active {
            return ended;
        }
        let _ = self.tell(&["clean", "--what=state", timer]);
        Ok(())
    }

    /// Has it read its files again, and forget how the services went.
    pub(super) fn forget(self, services: &[String]) {
        self.reload();
        for service in services {
            // One that never failed is none to forget.
            let _ = self.tell(&["reset-failed", service]);
        }
    }

    pub(super) fn reload(self) {
        let _ = self.tell(&["daemon-reload"]);
    }

    fn tell(self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(PROGRAM);
        if self.scope == Scope::User {
            command.arg("--user");
        }
        let told = command.arg("--no-ask-password").arg("--quiet").args(words).stdin(Stdio::null()).output();
        let output = told.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::NoScheduler(format!("{PROGRAM} is missing; use `install cron`")),
            _ => Error::io("run", PROGRAM, e),
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().find(|line| !line.is_empty()).unwrap_or("it did not say why").trim();
        Err(Error::NoScheduler(format!("systemctl {} failed, so nothing was changed: {said}", words.join(" "))))
    }
}
