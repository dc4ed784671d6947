//! What `install` wrote once, against what the job file says now; and jobs that say when, and that nothing starts.
//!
//! `install` copies the times, the user and the limits into the scheduler's files, and nobody copies them again when the job
//! file is changed. So what it would write now, for the same program and state directory, is compared with what is there.

use std::path::{Path, PathBuf};

use super::{
    findings::{Findings, Trouble},
    machine::Machine,
    start::{Start, Subject},
};
use crate::{
    dir::StateDir,
    install::{self, Account, Ground, Scope},
    job::definition::Definition,
    name::Name,
    schedule::Times,
};

/// An installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) is_systemd: bool,
    pub(super) scope: Scope,
    /// It is as it was written.
    pub(super) is_intact: bool,
    /// With its marker.
    pub(super) text: String,
}

impl Installed {
    /// The command that installs the job again, with that state directory.
    pub(super) fn again(&self, machine: &Machine, start: &Start, state: Option<&Path>) -> String {
        let Subject::Run { job, config, .. } = &start.asked.subject else { return "`triplock install`".to_owned() };
        let mut command = self.command(machine, start, "install", job);
        let mut add = |option: &str, path: &Path| {
            command = format!("{command} {option} {}", install::word_in_shell(&path.to_string_lossy()));
        };
        if let Some(config) = config {
            add("--config", config);
        }
        let own = StateDir::default_path(&machine.environment).ok();
        if let Some(state) = state.filter(|state| own.as_deref() != Some(state)) {
            add("--state-dir", state);
        }
        let is_hardened = self.is_systemd && units(start).is_some_and(|units| is_hardened(machine, &units, job));
        format!("`{command}{}`", if is_hardened { " --hardened" } else { "" })
    }

    fn command(&self, machine: &Machine, start: &Start, what: &str, job: &Name) -> String {
        let scheduler = if self.is_systemd { "systemd" } else { "cron" };
        let (before, after) = match self.scope {
            Scope::System if machine.me.is_root() => (String::new(), ""),
            Scope::System => ("sudo ".to_owned(), " --system"),
            Scope::User if start.user != machine.me => (format!("sudo -u {} ", start.user.name), " --user"),
            Scope::User if machine.me.is_root() => (String::new(), " --user"),
            Scope::User => (String::new(), ""),
        };
        format!("{before}triplock {what} {scheduler} {job}{after}")
    }

    /// What is wrong with it.
    pub(super) fn examine(
        &self,
        machine: &Machine,
        start: &Start,
        job: &Name,
        now: Option<&Definition>,
    ) -> Option<Trouble> {
        let at = match &start.at.of {
            Some(of) if !self.is_systemd => of.clone(),
            _ => start.at.path.display().to_string(),
        };
        let trouble = |message: String| {
            super::crontabs::trouble("stale_installation", message, &start.at).with("job", job.as_str())
        };
        let remove = self.command(machine, start, "uninstall", job);
        let Some(definition) = now else {
            return Some(trouble(format!(
                "{at}: job {job} is installed there, and no job file that user {} reads defines it, so every run fails; \
                 `{remove}`, or put the job file back",
                start.user.name
            )));
        };
        let file = format!("{} (line {})", definition.path.display(), definition.line);
        let times = Times::as_given(definition, self.is_systemd)?;
        if times.expressions.is_empty() {
            let key = if self.is_systemd { "on_calendar" } else { "cron" };
            return Some(trouble(format!(
                "{at}: {file} has no {key} any more, so nothing but this says when; `{remove}`"
            )));
        }
        let differs = self.differs(machine, start, definition, &times)?;
        let again = self.again(machine, start, start.state_dir(machine)?.ok().as_deref());
        Some(trouble(format!("{at}: is not what {file} says now: {differs}; install it again: {again}")))
    }

    /// What is to be there and is not, or the other way round.
    fn differs(&self, machine: &Machine, start: &Start, definition: &Definition, times: &Times) -> Option<String> {
        let Subject::Run { config, .. } = &start.asked.subject else { return None };
        let units = units(start).filter(|_| self.is_systemd);
        let ground = Ground {
            definition,
            program: start.program.clone().into(),
            state: start.state_dir(machine)?.ok()?,
            config: config.clone(),
            scope: self.scope,
            user: user(machine, definition).filter(|_| self.scope == Scope::System),
            is_hardened: units.as_ref().is_some_and(|units| is_hardened(machine, units, &definition.name)),
        };
        let Some(units) = units else {
            let wanted = install::cron_text(&ground, times).ok()?;
            return difference(install::body(&self.text), install::body(&wanted));
        };
        install::unit_texts(&ground, times).ok()?.iter().find_map(|(path, wanted)| {
            let there = machine.text(units.join(path)).unwrap_or_default();
            let is_edited = install::blocks(&there).any(|block| !block.is_intact);
            if is_edited {
                return None;
            }
            difference(install::body(&there), wanted.as_deref().map_or("", install::body))
        })
    }
}

/// The directory of the units.
fn units(start: &Start) -> Option<PathBuf> {
    start.at.path.parent()?.parent().map(Path::to_owned)
}

/// The first line of one that the other has not.
fn difference(there: &str, wanted: &str) -> Option<String> {
    let lacks = |text: &str, line: &str| !text.lines().any(|other| other == line);
    let shown = |line: &str| line.trim().chars().take(120).collect::<String>();
    match wanted.lines().find(|line| lacks(there, line)) {
        Some(line) => Some(format!("there is no line `{}`", shown(line))),
        None => there.lines().find(|line| lacks(wanted, line)).map(|line| format!("`{}` is gone", shown(line))),
    }
}

fn is_hardened(machine: &Machine, units: &Path, job: &Name) -> bool {
    let [_, hardened] = install::drop_ins(job);
    machine.text(units.join(hardened)).is_some_and(|text| install::blocks(&text).next().is_some())
}

/// As whom the system's scheduler starts it, when that is not root.
fn user(machine: &Machine, definition: &Definition) -> Option<Account> {
    let user = machine.user(&definition.schedule.user.as_ref()?.text);
    (!user.is_root()).then(|| Account {
        name: user.name,
        uid: user.uid.unwrap_or_default(),
        groups: Vec::new(),
        home: user.home.unwrap_or_default(),
    })
}

/// A note for each job whose file says when, and that nothing starts.
pub(super) fn waiting(
    machine: &Machine,
    starts: &[Start],
    own: &[Definition],
    config: Option<&Path>,
    findings: &mut Findings,
) {
    let starts_it = |definition: &Definition, start: &Start| match &start.asked.subject {
        Subject::Run { job, .. } => *job == definition.name,
        _ => false,
    };
    for definition in own {
        let Definition { name, path, line, schedule, .. } = definition;
        let mut ways = Vec::new();
        for (placed, scheduler) in [(&schedule.on_calendar, "systemd"), (&schedule.cron, "cron")] {
            if !placed.is_empty() {
                let config = config.map_or_else(String::new, |config| {
                    format!(" --config {}", install::word_in_shell(&config.to_string_lossy()))
                });
                ways.push(format!("`triplock install {scheduler} {name}{config}`"));
            }
        }
        // The crontabs of others, who may start the machine's jobs, are closed to an ordinary user.
        let of_machine =
            machine.environment.machine_config.as_ref().is_some_and(|directory| path.starts_with(directory));
        if ways.is_empty()
            || of_machine && !machine.me.is_root()
            || starts.iter().any(|start| starts_it(definition, start))
        {
            continue;
        }
        let ways = ways.join(" or ");
        findings.note(format!("{}: line {line}: job {name}: says when, and nothing starts it; {ways}", path.display()));
    }
}
