//! A job as lines of a crontab: a file of its own in /etc/cron.d, or lines in the user's own crontab.

use std::fmt::Write as _;

use super::{Ground, escape::word_in_crontab, marker, no_such_path};
use crate::{
    error::{Error, Result},
    name::Name,
    schedule::Times,
};

/// The PATH of a file in /etc/cron.d: cron's own has no sbin.
pub(super) const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The PATH of a user's crontab that sets none.
pub(super) const OWN_SEARCH: &str = "/usr/bin:/bin";

/// Debian's cron takes no longer command.
const LONGEST: usize = 998;

/// The name of a job's file in /etc/cron.d, where a name with a dot is passed over: `_d` is a dot there, and `__` an
/// underscore, so that no two jobs have one file.
pub(super) fn file_name(job: &Name) -> String {
    format!("triplock-{}", job.as_str().replace('_', "__").replace('.', "_d"))
}

/// Whom the marker names.
pub(super) fn owner(job: &Name) -> String {
    format!("job {job}")
}

/// The text of a job's file in /etc/cron.d.
pub(super) fn file(ground: &Ground, times: &Times) -> Result<String> {
    let job = &ground.definition.name;
    let user = ground.user.as_ref().map_or("root", |user| &user.name);
    if user.contains(char::is_whitespace) {
        let why = format!("user: a blank ends the name in a crontab, and {user:?} has one; use `install systemd`");
        return Err(Error::BadConfiguration {
            path: ground.definition.path.clone(),
            line: ground.definition.line,
            why,
        });
    }
    let mut body = format!("SHELL=/bin/sh\nPATH={SEARCH}\n");
    for expression in &times.expressions {
        let _ = writeln!(body, "{expression} {user} {}", command(ground)?);
    }
    let hint = format!("change the job file and install again; `triplock uninstall cron {job}` removes this file");
    Ok(marker::marked(&owner(job), &hint, &body))
}

/// The lines of a job in a user's crontab, where a variable would be every other line's as well.
pub(super) fn lines(ground: &Ground, times: &Times) -> Result<String> {
    let job = &ground.definition.name;
    let mut body = String::new();
    for expression in &times.expressions {
        let _ = writeln!(body, "{expression} {}", command(ground)?);
    }
    let hint =
        format!("change the job file and install again; `triplock uninstall cron {job} --user` removes these lines");
    Ok(marker::marked(&owner(job), &hint, &body))
}

fn command(ground: &Ground) -> Result<String> {
    let word = |path| word_in_crontab(path).map_err(|why| no_such_path(path, &why));
    let Ground { definition, program, state, config, .. } = ground;
    let mut command = format!("{} --state-dir {} run {}", word(program)?, word(state)?, definition.name);
    if let Some(config) = config {
        command += " --config ";
        command += &word(config)?;
    }
    // cron mails whatever is printed.
    if definition.settings.output.is_none() {
        command.push_str(" --output on-failure");
    }
    if command.len() > LONGEST {
        let why =
            format!("the command of its crontab line would have {} bytes, and cron takes {LONGEST}", command.len());
        return Err(Error::BadConfiguration { path: definition.path.clone(), line: definition.line, why });
    }
    Ok(command)
}
