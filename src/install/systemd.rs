//! A job as units: the templates that all jobs share, and drop-ins with what is the job's own.
//!
//! A package may have installed the templates already; they are never written twice. So that it does not matter whose they
//! are, the drop-ins name the program and the state directory again.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{
    Ground, Scope,
    escape::{program_in_unit, word_in_unit},
    marker, no_such_path,
};
use crate::{error::Result, name::Name, schedule::Times};

/// What the units that are delivered hold where an installation has its own.
const PROGRAM: &str = "/usr/bin/triplock";
const STATE: &str = "/var/lib/triplock";

const SERVICE: &str = include_str!("../../systemd/triplock@.service");
const TIMER: &str = include_str!("../../systemd/triplock@.timer");
const FAILURE: &str = include_str!("../../systemd/triplock-failure@.service");
const HARDENED: &str = include_str!("../../systemd/hardened.conf");

/// The PATH of the system's services.
pub(super) const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The group that the hardened unit is in.
pub(super) const GROUP: &str = "triplock";

/// The templates, by their files' names.
const TEMPLATES: [(&str, &str); 3] =
    [("triplock@.service", SERVICE), ("triplock@.timer", TIMER), ("triplock-failure@.service", FAILURE)];

/// How long systemd waits longer than triplock before it kills what is left, as in the template.
const GRACE: u64 = 20;

/// A file of a job, by its path below the directory of units.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) path: PathBuf,
    /// Whom its marker names.
    pub(super) owner: String,
    /// `None` where this job has none.
    pub(super) text: Option<String>,
}

/// Whom the marker of the templates names.
const EVERY_JOB: &str = "every job";

pub(super) fn timer(job: &Name) -> String {
    format!("triplock@{job}.timer")
}

pub(super) fn services(job: &Name) -> [String; 2] {
    [format!("triplock@{job}.service"), format!("triplock-failure@{job}.service")]
}

/// The files of a job's own, without their texts. Files of one unit count in the order of their names, wherever they are, so
/// that what `systemctl edit` writes (`override.conf`) comes later than these.
pub(super) fn paths(job: &Name) -> [PathBuf; 4] {
    let [service, failure] = services(job);
    let timer = timer(job);
    [
        format!("{service}.d/10-triplock.conf"),
        format!("{service}.d/hardened.conf"),
        format!("{timer}.d/10-triplock.conf"),
        format!("{failure}.d/10-triplock.conf"),
    ]
    .map(PathBuf::from)
}

/// The templates' files.
pub(super) fn templates() -> impl Iterator<Item = Unit> {
    TEMPLATES.iter().map(|(name, _)| Unit { path: name.into(), owner: EVERY_JOB.to_owned(), text: None })
}

/// The templates for this ground.
pub(super) fn rendered_templates(ground: &Ground) -> Result<Vec<Unit>> {
    let written = |(name, template): &(&str, &str)| {
        let hint = "`triplock uninstall systemd JOB` of the last job removes this file";
        let text = marker::marked(EVERY_JOB, hint, &substituted(ground, template)?);
        Ok(Unit { path: (*name).into(), owner: EVERY_JOB.to_owned(), text: Some(text) })
    };
    TEMPLATES.iter().map(written).collect()
}

/// The drop-ins of the job.
pub(super) fn drop_ins(ground: &Ground, times: &Times) -> Result<Vec<Unit>> {
    let definition = ground.definition;
    let mut service = pinned(ground, SERVICE, true)?;
    if let Some(user) = &ground.user {
        let _ = writeln!(service, "User={}", user.name.replace('%', "%%"));
    }
    match definition.settings.kill_after {
        // (0 sends no KILL, ever; whoever wants that of systemd too has to tell it.)
        Some(kill_after) if kill_after.as_secs() > 0 => {
            // Rounded up.
            let seconds = kill_after.as_secs() + u64::from(kill_after.subsec_nanos() > 0) + GRACE;
            let _ = writeln!(service, "TimeoutStopSec={seconds}");
        }
        _ => {}
    }
    let mut dates = "[Timer]\n# Those of the template, or of an earlier file, do not count.\nOnCalendar=\n".to_owned();
    for expression in &times.expressions {
        let _ = writeln!(dates, "OnCalendar={}", expression.replace('%', "%%"));
    }
    let hardened = ground.is_hardened.then(|| substituted(ground, HARDENED)).transpose()?;
    let failure = pinned(ground, FAILURE, false)?;
    let job = &definition.name;
    let owner = format!("job {job}");
    // (root's own is not what root means without a word.)
    let scope = if ground.scope == Scope::User { " --user" } else { "" };
    let hint =
        format!("change the job file and install again; `triplock uninstall systemd {job}{scope}` removes this file");
    let texts = [Some(service), hardened, Some(dates), Some(failure)];
    let unit = |(path, text): (PathBuf, Option<String>)| Unit {
        path,
        owner: owner.clone(),
        text: text.map(|text| marker::marked(&owner, &hint, &text)),
    };
    Ok(paths(job).into_iter().zip(texts).map(unit).collect())
}

/// The lines of a template that name the program and the state directory, with those of this ground.
fn pinned(ground: &Ground, template: &str, runs_the_job: bool) -> Result<String> {
    let mut text = "[Service]\n".to_owned();
    for line in template.lines() {
        let is_state = line.starts_with("Environment=") && line.contains(STATE);
        let is_command = line.starts_with("ExecStart=") && line.contains(PROGRAM);
        if is_command {
            // Without this one it would be a second command.
            text.push_str("ExecStart=\n");
        }
        if is_state || is_command {
            text.push_str(&line_for(ground, line)?);
            if let (true, true, Some(config)) = (is_command, runs_the_job, &ground.config) {
                let _ = write!(text, " --config {}", word(config)?);
            }
            text.push('\n');
        }
    }
    Ok(text)
}

fn substituted(ground: &Ground, template: &str) -> Result<String> {
    let mut text = String::new();
    for line in template.lines() {
        text.push_str(&line_for(ground, line)?);
        text.push('\n');
    }
    Ok(text)
}

fn line_for(ground: &Ground, line: &str) -> Result<String> {
    let program = program_in_unit(&ground.program).map_err(|why| no_such_path(&ground.program, &why))?;
    let state = word(&ground.state)?;
    if line.starts_with('#') {
        return Ok(line.to_owned());
    }
    if let Some((key, assignment)) = line.split_once('=').filter(|(key, _)| *key == "Environment") {
        // The quotes of a variable stand around its name too.
        let assignment = match (state.strip_prefix('"'), assignment.split_once('=')) {
            (Some(rest), Some((name, value))) if value == STATE => format!("\"{name}={rest}"),
            _ => assignment.replace(STATE, &state),
        };
        return Ok(format!("{key}={assignment}"));
    }
    // Nothing in these lines is a variable; a path with a dollar sign would look like one.
    let has_dollar = [Some(&ground.program), ground.config.as_ref()].into_iter().flatten().any(|path| dollar(path));
    let line = match line.strip_prefix("ExecStart=") {
        Some(command) if has_dollar && command.starts_with(PROGRAM) => format!("ExecStart=:{command}"),
        _ => line.to_owned(),
    };
    Ok(line.replace(PROGRAM, &program).replace(STATE, &state))
}

fn dollar(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&b'$')
}

fn word(path: &Path) -> Result<String> {
    word_in_unit(path).map_err(|why| no_such_path(path, &why))
}
