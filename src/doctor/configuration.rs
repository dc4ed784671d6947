//! `config.toml` and job files, and what they name that is not there.

use std::path::Path;

use super::{
    findings::{Findings, Trouble},
    machine::Machine,
    programs::first_program,
};
use crate::{
    config::{self, Places},
    job::definition::{Definition, Sources},
};

pub(super) fn examine(machine: &Machine, config: Option<&Path>, findings: &mut Findings) {
    let me = rustix::process::geteuid().as_raw();
    if let Some(places) = findings.keep(Places::of(&machine.environment)) {
        findings.problems.extend(config::check_global(&places, me).into_iter().map(Into::into));
    }
    let Some(sources) = findings.keep(Sources::new(config, &machine.environment)) else { return };
    let all = sources.all();
    findings.problems.extend(all.problems.into_iter().map(Into::into));
    findings.looked_at.job_files = all.files;
    findings.looked_at.defined_jobs = all.definitions.len();
    for definition in &all.definitions {
        user(machine, definition, findings);
        program(definition, findings);
    }
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

/// A note only: this shell's PATH is not the scheduler's, and a program may come later.
fn program(definition: &Definition, findings: &mut Findings) {
    let Some(program) = first_program(definition) else { return };
    let path = std::env::var("PATH").unwrap_or_default();
    let Definition { name, path: file, line, .. } = definition;
    if !super::machine::finds_here(&program, &path) {
        let place = format!("{}: line {line}: job {name}", file.display());
        findings.note(if program.contains('/') {
            format!("{place}: {program} is not there, or nobody may execute it")
        } else {
            format!("{place}: {program} is not in this shell's PATH")
        });
    }
}
