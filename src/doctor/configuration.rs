//! `config.toml` and job files.

use std::path::Path;

use super::{
    findings::{Findings, Trouble},
    machine::Machine,
    read::{self, Read},
};
use crate::{
    config::{Configuration, Places},
    job::definition::{Definition, Sources},
    schedule,
};

/// Examines them, and gives the jobs that this shell's job files define.
pub(super) fn examine(machine: &Machine, config: Option<&Path>, findings: &mut Findings) -> Vec<Definition> {
    let me = rustix::process::geteuid().as_raw();
    if let Some(places) = findings.keep(Places::of(&machine.environment)) {
        findings.problems.extend(Configuration::new(places, me).problems().into_iter().map(Into::into));
    }
    let Some(sources) = findings.keep(Sources::new(config, &machine.environment)) else { return Vec::new() };
    let all = sources.all();
    findings.problems.extend(all.problems.into_iter().map(Into::into));
    findings.looked_at.job_files = all.files;
    findings.looked_at.defined_jobs = all.definitions.len();
    for definition in &all.definitions {
        findings.problems.extend(schedule::mistakes(definition).into_iter().map(Into::into));
        user(machine, definition, findings);
    }
    passed_over(&sources, findings);
    all.definitions
}

fn user(machine: &Machine, definition: &Definition, findings: &mut Findings) {
    let Some(user) = &definition.schedule.user else { return };
    if machine.user(&user.text).uid.is_some() || machine.has_other_users {
        return;
    }
    let Definition { name, path, .. } = definition;
    let message = format!(
        "{}: line {}: job {name}: there is no user {} in /etc/passwd; correct the name, or make the user",
        path.display(),
        user.line,
        user.text
    );
    let trouble = Trouble::new("unknown_user", message).path(path).with("line", user.line);
    findings.problem(trouble.with("job", name.as_str()).with("user", user.text.as_str()));
}

/// A file that only its name keeps from being one of the job files. Copies are meant to be none.
fn passed_over(sources: &Sources, findings: &mut Findings) {
    const COPIES: [&str; 9] = [".bak", ".disabled", ".old", ".orig", ".save", ".swp", ".tmp", ".txt", "~"];
    for directory in sources.directories() {
        for name in read::names(&directory).unwrap_or_default() {
            let is_copy = name.starts_with('.')
                || [".toml", ".dpkg-", ".rpm", ".ucf-"].iter().any(|part| name.contains(part))
                || COPIES.iter().any(|end| name.ends_with(end));
            let path = directory.join(&name);
            let defines = |text: &str| text.lines().any(|line| line.trim_start().starts_with("[jobs"));
            if !is_copy && matches!(read::file(&path), Read::Text(text) if defines(&text)) {
                findings.note(format!("{}: is passed over: its name does not end in .toml", path.display()));
            }
        }
    }
}
