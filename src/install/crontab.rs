//! A user's own crontab, which only crontab(1) may touch.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use super::{Account, Change, marker};
use crate::error::{Error, Result};

const PROGRAM: &str = "crontab";

/// The crontab of whoever runs this.
#[derive(Debug)]
pub(super) struct UserCrontab {
    user: String,
    text: Option<String>,
}

impl UserCrontab {
    /// For a look: where there is no cron, there are no lines either.
    pub(super) fn read_if_there() -> Result<Self> {
        match Command::new(PROGRAM).arg("-l").output() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self { user: own_name(), text: None }),
            _ => Self::read(),
        }
    }

    pub(super) fn read() -> Result<Self> {
        let user = own_name();
        let output = Command::new(PROGRAM).arg("-l").env("LC_ALL", "C").stdin(Stdio::null()).output();
        let output = output.map_err(absent)?;
        if output.status.success() {
            let text = String::from_utf8(output.stdout).map_err(|_| {
                Error::NoScheduler("the crontab is not UTF-8; make it so with `crontab -e`, and retry".to_owned())
            })?;
            return Ok(Self { user, text: Some(text) });
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("no crontab for") {
            return Ok(Self { user, text: None });
        }
        let said = said.lines().next().unwrap_or("it did not say why");
        Err(Error::NoScheduler(format!("crontab -l failed, so nothing was changed: {said}")))
    }

    /// The crontab with these lines for those that the owner has, or without.
    pub(super) fn change(&self, owner: &str, lines: Option<&str>) -> Result<Change> {
        let path = format!("crontab of user {}", self.user).into();
        let mut text = self.text.clone().unwrap_or_default();
        // Whoever copied a crontab may have the lines twice.
        let mut place = None;
        while let Some(block) = marker::find(&text, owner) {
            if !block.is_intact {
                let why = format!(
                    "the lines of {owner} were edited since triplock wrote them; remove them with `crontab -e`, and retry"
                );
                return Err(Error::NotOurs { path, why });
            }
            place.get_or_insert(block.range.start);
            text.replace_range(block.range, "");
        }
        if let Some(lines) = lines {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.insert_str(place.unwrap_or(text.len()), lines);
        }
        let old = self.text.as_ref().map(|text| text.clone().into_bytes());
        // The last line takes the crontab with it; one that was empty before is somebody's.
        let is_kept = !text.is_empty() || lines.is_none() && self.text.as_deref() == Some("");
        Ok(Change { path, old, new: Some(text).filter(|_| is_kept) })
    }

    /// Has crontab(1) put it in place, which it does whole or not at all.
    pub(super) fn write(&self, changes: &[Change]) -> Result<()> {
        for change in changes.iter().filter(|change| !change.is_idle()) {
            let failed = |said: &str| Error::NoScheduler(format!("crontab refused, so nothing was changed: {said}"));
            if Self::read()?.text != self.text {
                return Err(failed("it was changed by somebody else just now; retry"));
            }
            let mut command = Command::new(PROGRAM);
            let mut child = command
                .arg(if change.new.is_some() { "-" } else { "-r" })
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(absent)?;
            if let (Some(mut pipe), Some(text)) = (child.stdin.take(), &change.new) {
                // What it says about that comes below.
                let _ = pipe.write_all(text.as_bytes());
            }
            let output = child.wait_with_output().map_err(|e| Error::io("run", PROGRAM, e))?;
            if !output.status.success() {
                return Err(failed(String::from_utf8_lossy(&output.stderr).trim().lines().next().unwrap_or_default()));
            }
        }
        Ok(())
    }
}

fn own_name() -> String {
    Account::own().map_or_else(|| rustix::process::geteuid().as_raw().to_string(), |account| account.name)
}

fn absent(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Error::NoScheduler("no cron here: crontab(1) is missing; install cron, or use `install systemd`".to_owned())
        }
        _ => Error::io("run", PROGRAM, error),
    }
}
