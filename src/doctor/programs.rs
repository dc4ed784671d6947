//! What a scheduler would not find: triplock itself, a job's definition, its program, or the home directory in which it is
//! told about all that.

use std::{collections::HashMap, rc::Rc};

use super::{
    crontabs::trouble,
    findings::Findings,
    machine::Machine,
    shell::{self, Word},
    start::{Start, Subject},
};
use crate::{
    job::definition::{All, Definition, Sources},
    name::Name,
};

/// Examines what each start needs.
pub(super) fn examine(machine: &Machine, starts: &[Start], findings: &mut Findings) {
    let mut read: HashMap<(String, u32), Rc<All>> = HashMap::new();
    for start in starts {
        let path = start.get("PATH").unwrap_or("/usr/bin:/bin");
        if !machine.finds(&start.program, path) {
            let message = if start.program.contains('/') {
                format!("{}: there is no program {}; name the one that is installed", start.at, start.program)
            } else {
                format!(
                    "{}: {} is not in its PATH ({path}); write its whole path, or set PATH there",
                    start.at, start.program
                )
            };
            findings.problem(trouble("program_not_found", message, &start.at).with("program", start.program.as_str()));
        }
        let Subject::Run { job, has_command, config } = &start.asked.subject else { continue };
        let Some(uid) = start.user.uid else { continue };
        let config = config.as_ref().map(|path| machine.at(path));
        let Ok(sources) = Sources::new(config.as_deref(), &start.environment(machine)) else { continue };
        let all = read.entry((format!("{sources:?}"), uid)).or_insert_with(|| Rc::new(sources.all_for(uid)));
        let definition = all.definitions.iter().find(|definition| definition.name == *job);
        match definition {
            Some(definition) if *has_command => {
                let message = format!(
                    "{}: job {job} has its command in {} (line {}) too, so this is refused; leave the command out there",
                    start.at,
                    definition.path.display(),
                    definition.line
                );
                findings.problem(trouble("two_commands", message, &start.at).with("job", job.as_str()));
            }
            Some(definition) => program(machine, start, job, definition, path, findings),
            // A file that is wrong may define it, and is said to be wrong.
            None if !has_command && all.problems.is_empty() => undefined(machine, start, job, &sources, findings),
            None => {}
        }
    }
}

fn undefined(machine: &Machine, start: &Start, job: &Name, sources: &Sources, findings: &mut Findings) {
    // It may be defined where only a process with a HOME looks.
    if start.get("HOME").is_none() && start.get("XDG_CONFIG_HOME").is_none() {
        let home = start.user.home.clone().unwrap_or_default();
        let place = home.join(".config/triplock/jobs.d");
        let own = Sources::Directories(vec![machine.at(&place)]).all_for(start.user.uid.unwrap_or_default());
        if let Some(definition) = own.definitions.iter().find(|definition| definition.name == *job) {
            let message = format!(
                "{}: job {job} is defined in {}, which is not read without HOME; move the file to /etc/triplock/jobs.d, or \
                 set HOME={} there",
                start.at,
                definition.path.display(),
                home.display()
            );
            return findings.problem(trouble("no_home", message, &start.at).with("job", job.as_str()));
        }
    }
    let message = format!(
        "{}: job {job} has no command, and no job file that user {} reads defines it; define [jobs.{job}] in {sources}, or \
         give a command there",
        start.at, start.user.name
    );
    findings.problem(trouble("undefined_job", message, &start.at).with("job", job.as_str()));
}

/// The job's own program, with the scheduler's PATH.
fn program(machine: &Machine, start: &Start, job: &Name, definition: &Definition, path: &str, findings: &mut Findings) {
    let Some(program) = first_program(definition) else { return };
    // A user's manager has the PATH of a session, which is not known.
    let is_known = start.service.as_ref().is_none_or(|service| service.is_system);
    if is_known && !machine.finds(&program, path) && !program.contains('/') {
        let message = format!(
            "{}: job {job} starts {program} ({} line {}), which is not in its PATH ({path}); write the program's whole path in \
             the job file, or set PATH there",
            start.at,
            definition.path.display(),
            definition.line
        );
        findings.problem(
            trouble("program_not_found", message, &start.at).with("job", job.as_str()).with("program", program),
        );
    }
}

/// What a shell does itself.
const BUILTIN: [&str; 24] = [
    ".", ":", "[", "alias", "cd", "command", "echo", "eval", "exec", "exit", "export", "false", "for", "if", "printf",
    "read", "set", "test", "trap", "true", "ulimit", "umask", "unset", "while",
];

/// The program of a job, where that can be told.
pub(super) fn first_program(definition: &Definition) -> Option<String> {
    let words: Vec<_> = definition.command.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    match words[..] {
        // As a string of a job file becomes; the first word, if it is plain.
        ["/bin/sh", "-c", text] => {
            let word = text.split_ascii_whitespace().next()?;
            let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._+-".contains(c));
            (is_plain && !BUILTIN.contains(&word) && shell::assignment(word).is_none()).then(|| Word::from(word).text)
        }
        [program, ..] => Some(program.to_owned()),
        [] => None,
    }
}
