//! What a scheduler would not find: triplock itself, a job's definition, its program, or the home directory in which it is
//! told about all that.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    crontabs::trouble,
    findings::{Findings, Trouble},
    machine::{self, Machine},
    start::{Start, Subject},
};
use crate::{
    job::definition::{All, Definition, Sources},
    name::Name,
};

/// Examines what each start needs, and the programs of `own`: the jobs that this shell's job files define.
pub(super) fn examine(machine: &Machine, starts: &[Start], own: &[Definition], findings: &mut Findings) {
    let mut read: HashMap<(String, u32), Rc<All>> = HashMap::new();
    // What a scheduler starts is judged by its PATH, and once.
    let mut scheduled: HashSet<(PathBuf, Name)> = HashSet::new();
    let mut said: HashSet<String> = HashSet::new();
    for start in starts {
        let path = start.get("PATH").unwrap_or("/usr/bin:/bin");
        if !machine.finds(&start.program, path) {
            let message = match &start.installed {
                Some(installed) => format!(
                    "{}: there is no program {}, so every run fails; install it again: {}",
                    start.at,
                    start.program,
                    installed.again(machine, start, start.state_dir(machine).and_then(Result::ok).as_deref())
                ),
                None if start.program.contains('/') => {
                    format!("{}: there is no program {}; name the one that is installed", start.at, start.program)
                }
                None => format!(
                    "{}: {} is not in its PATH ({path}); write its whole path, or set PATH there",
                    start.at, start.program
                ),
            };
            findings.problem(trouble("program_not_found", message, &start.at).with("program", start.program.as_str()));
        }
        let Subject::Run { job, has_command, config } = &start.asked.subject else { continue };
        let Some(uid) = start.user.uid else { continue };
        let config = config.as_ref().map(|path| machine.at(path));
        let Ok(sources) = Sources::new(config.as_deref(), &start.environment(machine)) else { continue };
        let all = read.entry((format!("{sources:?}"), uid)).or_insert_with(|| Rc::new(sources.all_for(uid)));
        let definition = all.definitions.iter().find(|definition| definition.name == *job);
        if let (Some(installed), false) = (&start.installed, has_command) {
            // Of an edited one nobody knows what is meant; and a file that is wrong may define the job.
            let is_gone = all.problems.is_empty() || config.as_ref().is_some_and(|path| !path.exists());
            if installed.is_intact && (definition.is_some() || is_gone) {
                let stale = installed.examine(machine, start, job, definition);
                if let Some(trouble) = stale.filter(|trouble| said.insert(trouble.message.clone())) {
                    findings.problem(trouble);
                }
            }
        }
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
            Some(definition) => {
                scheduled.insert((definition.path.clone(), definition.name.clone()));
                if let Some(trouble) = started_program(machine, start, definition, path) {
                    if said.insert(trouble.message.clone()) {
                        findings.problem(trouble);
                    }
                }
            }
            // A file that is wrong may define it, and is said to be wrong.
            None if !has_command && all.problems.is_empty() && start.installed.is_none() => {
                undefined(machine, start, job, &sources, findings);
            }
            None => {}
        }
    }
    for definition in own {
        if !scheduled.contains(&(definition.path.clone(), definition.name.clone())) {
            findings.problems.extend(own_program(definition).map(Into::into));
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

/// What is wrong with the job's own program, where a scheduler starts it.
fn started_program(machine: &Machine, start: &Start, definition: &Definition, path: &str) -> Option<Trouble> {
    let program = definition.program()?;
    if program.contains('/') || is_unexpanded(&program) {
        let from = start.directory();
        let whole =
            from.as_ref().map(|directory| directory.join(&program)).filter(|_| Path::new(&program).is_relative());
        let is_found = match &whole {
            Some(whole) => machine.is_program(whole),
            None => machine.is_program(Path::new(&program)),
        };
        let whence = from.map_or(String::new(), |from| format!("{} starts it in {}, where ", start.at, from.display()));
        return (!is_found).then(|| missing(definition, &program, &whence));
    }
    // A user's manager has the PATH of a session, which is not known.
    let is_known = start.service.as_ref().is_none_or(|service| service.is_system);
    if !is_known || machine.finds(&program, path) {
        return None;
    }
    // What `install` wrote must stay as it is.
    let or = if start.installed.is_some() { "" } else { ", or set PATH there" };
    let Definition { name: job, path: file, line, .. } = definition;
    let message = format!(
        "{}: job {job} starts {program} ({} line {line}), which is not in its PATH ({path}); write the program's whole path in \
         the job file{or}",
        start.at,
        file.display(),
    );
    Some(trouble("program_not_found", message, &start.at).with("job", job.as_str()).with("program", program))
}

/// The same of a job that nothing starts but somebody in a shell such as this one.
fn own_program(definition: &Definition) -> Option<Trouble> {
    let program = definition.program()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    (!machine::finds_here(&program, &path)).then(|| missing(definition, &program, "in this directory "))
}

/// A list is started as it is: no shell looks at its words.
fn is_unexpanded(program: &str) -> bool {
    program.starts_with("~/") || program.starts_with('$')
}

fn missing(definition: &Definition, program: &str, whence: &str) -> Trouble {
    let Definition { name: job, path: file, line, .. } = definition;
    let is_there = Path::new(program).is_absolute() && Path::new(program).is_file();
    let why = match program {
        _ if is_unexpanded(program) && !definition.is_script() => format!(
            "{program} is not expanded in a list, so every run fails; write the command as a string, for the shell, or give an \
             absolute path"
        ),
        _ if is_there => format!("nobody may execute {program}, so every run fails; chmod a+x {program}"),
        _ if program.starts_with('/') => {
            format!("there is no program {program}, so every run fails; correct the path, or install it")
        }
        _ if program.contains('/') => {
            format!("{whence}there is no program {program}, so every run fails; write its absolute path")
        }
        _ => format!(
            "{program} is not in this shell's PATH, so every run from here fails; write its absolute path, or install it"
        ),
    };
    let message = format!("{}: line {line}: job {job}: {why}", file.display());
    let trouble = Trouble::new("program_not_found", message).path(file).with("line", *line);
    trouble.with("job", job.as_str()).with("program", program)
}
