//! A job made known to a scheduler, and taken back: what is to be written where, apart from writing it.
//!
//! Everything is looked at before the first file is touched; what triplock did not write, or what was edited since, is
//! never changed. When the scheduler refuses, the files are put back.

mod account;
mod binary;
mod cron;
mod crontab;
mod escape;
mod marker;
mod program;
mod reach;
mod systemctl;
mod systemd;
mod turn;
mod write;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    error::{Error, Result},
    job::definition::Definition,
    name::Name,
    schedule::{Times, problem},
};

pub(crate) use account::Account;
pub(crate) use binary::path as binary_path;
pub(crate) use escape::word_in_shell;
pub(crate) use marker::{blocks, body};
pub(crate) use turn::Turn;
pub(crate) use write::Change;

use crontab::UserCrontab;
use reach::Wish;
use systemctl::Systemctl;
use write::Written;

const UNITS: &str = "/etc/systemd/system";
const CRON_D: &str = "/etc/cron.d";

/// Whose scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    System,
    User,
}

/// What an installation stands on.
#[derive(Debug)]
pub(crate) struct Ground<'d> {
    pub(crate) definition: &'d Definition,
    /// This program, as a scheduler is to start it.
    pub(crate) program: PathBuf,
    /// The state directory.
    pub(crate) state: PathBuf,
    /// The job file, when it is not one that every user's triplock reads.
    pub(crate) config: Option<PathBuf>,
    pub(crate) scope: Scope,
    /// As whom the system's scheduler starts the job, when that is not root.
    pub(crate) user: Option<Account>,
    pub(crate) is_hardened: bool,
}

/// Files that are to change.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    target: Target,
}

#[derive(Debug)]
enum Target {
    /// With the directory of the units.
    Systemd(Scope, Name, PathBuf),
    CronD,
    Crontab(UserCrontab),
}

/// As whom the job runs, when its file says so.
///
/// # Errors
/// `BadConfiguration` when there is no such user, or another one's job is to go into this user's scheduler.
pub(crate) fn user(definition: &Definition, scope: Scope) -> Result<Option<Account>> {
    let Some(placed) = &definition.schedule.user else { return Ok(None) };
    let bad = |why: String| problem(definition, placed.line, &why);
    let account = Account::of(&placed.text).ok_or_else(|| bad(format!("user: there is no user {}", placed.text)))?;
    if scope == Scope::User && account.uid != rustix::process::geteuid().as_raw() {
        let why = "user: the job is user {}'s, and --user is this user's scheduler; use --system as root";
        return Err(bad(why.replace("{}", &account.name)));
    }
    Ok(Some(account).filter(|account| scope == Scope::System && account.uid != 0))
}

/// The directory of the units.
pub(crate) fn units(scope: Scope, config_home: Option<&Path>) -> Result<PathBuf> {
    match (scope, config_home) {
        (Scope::System, _) => Ok(UNITS.into()),
        (Scope::User, Some(home)) => Ok(home.join("systemd/user")),
        (Scope::User, None) => Err(Error::Usage("no directory for units: set HOME".to_owned())),
    }
}

/// What is to be done for systemd to start the job.
///
/// # Errors
/// `NotOurs` when something else is where a file would go, `BadConfiguration` when a path cannot be written in a unit.
pub(crate) fn with_systemd(ground: &Ground, times: &Times, units: &Path) -> Result<Plan> {
    let job = &ground.definition.name;
    nobody_elses(units, job)?;
    let mut wanted = Vec::new();
    let is_packaged = is_packaged(ground.scope);
    if !is_packaged {
        wanted.extend(systemd::rendered_templates(ground)?);
    }
    wanted.extend(systemd::drop_ins(ground, times)?);
    let changes = wanted.into_iter().map(|unit| change(units.join(unit.path), &unit.owner, unit.text));
    let mut changes = changes.collect::<Result<Vec<_>>>()?;
    if is_packaged {
        // Those of the time before the package would stand before its own for ever.
        changes.extend(removed_templates(units)?);
    }
    Ok(Plan { changes, target: Target::Systemd(ground.scope, job.clone(), units.to_owned()) })
}

/// A unit of that instance's name would stand before the templates.
fn nobody_elses(units: &Path, job: &Name) -> Result<()> {
    let [service, _] = systemd::services(job);
    for name in [service, systemd::timer(job)] {
        let path = units.join(name);
        if fs::symlink_metadata(&path).is_ok() {
            let why = match fs::read_link(&path) {
                Ok(target) if target == Path::new("/dev/null") => "is masked; `systemctl unmask` it, if that is over",
                _ => "is a unit of that name that triplock did not write; remove it, or name the job otherwise",
            };
            return Err(Error::NotOurs { path, why: why.to_owned() });
        }
    }
    Ok(())
}

/// Whether a package has installed the templates.
fn is_packaged(scope: Scope) -> bool {
    let kind = if scope == Scope::System { "system" } else { "user" };
    ["/usr/lib/systemd", "/lib/systemd"]
        .iter()
        .any(|place| systemd::templates().all(|unit| Path::new(place).join(kind).join(unit.path).exists()))
}

/// What is to be done for cron to start the job.
///
/// # Errors
/// As [`with_systemd`]; and `NoScheduler` when the user's crontab cannot be read.
pub(crate) fn with_cron(ground: &Ground, times: &Times, is_dry: bool) -> Result<Plan> {
    let owner = cron::owner(&ground.definition.name);
    match ground.scope {
        Scope::System => {
            let path = Path::new(CRON_D).join(cron::file_name(&ground.definition.name));
            let change = change(path, &owner, Some(cron::file(ground, times)?))?;
            Ok(Plan { changes: vec![change], target: Target::CronD })
        }
        Scope::User => in_crontab(&owner, Some(&cron::lines(ground, times)?), is_dry),
    }
}

fn in_crontab(owner: &str, lines: Option<&str>, is_dry: bool) -> Result<Plan> {
    let crontab = if is_dry { UserCrontab::read_if_there()? } else { UserCrontab::read()? };
    let change = crontab.change(owner, lines)?;
    Ok(Plan { changes: vec![change], target: Target::Crontab(crontab) })
}

/// What is to be removed so that systemd does not start the job any more.
///
/// # Errors
/// `NotOurs` when a file is not as triplock wrote it.
pub(crate) fn without_systemd(job: &Name, scope: Scope, units: &Path) -> Result<Plan> {
    let owner = format!("job {job}");
    let mut changes = Vec::new();
    for path in systemd::paths(job) {
        changes.push(change(units.join(path), &owner, None)?);
    }
    if !serves_others(units, job) {
        changes.extend(removed_templates(units)?);
    }
    changes.retain(|change| !change.is_idle());
    Ok(Plan { changes, target: Target::Systemd(scope, job.clone(), units.to_owned()) })
}

/// The templates that triplock wrote there, removed.
fn removed_templates(units: &Path) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for unit in systemd::templates() {
        // Of a template that somebody else wrote, a job had only the use.
        match change(units.join(unit.path), &unit.owner, None) {
            Err(Error::NotOurs { .. }) => {}
            change => changes.push(change?),
        }
    }
    Ok(changes)
}

/// Whether another job is installed there.
fn serves_others(units: &Path, job: &Name) -> bool {
    let own = format!("{}.d", systemd::timer(job));
    let Ok(entries) = fs::read_dir(units) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("triplock@")
            && name.ends_with(".timer.d")
            && name != own
            && entry.path().join("10-triplock.conf").exists()
    })
}

/// What is to be removed so that cron does not start the job any more.
///
/// # Errors
/// As [`without_systemd`]; and `NoScheduler` when the user's crontab cannot be read.
pub(crate) fn without_cron(job: &Name, scope: Scope, is_dry: bool) -> Result<Plan> {
    let mut plan = match scope {
        Scope::System => {
            let change = change(Path::new(CRON_D).join(cron::file_name(job)), &cron::owner(job), None)?;
            Plan { changes: vec![change], target: Target::CronD }
        }
        Scope::User => in_crontab(&cron::owner(job), None, is_dry)?,
    };
    plan.changes.retain(|change| !change.is_idle());
    Ok(plan)
}

/// A file that becomes that text, or is removed.
fn change(path: PathBuf, owner: &str, new: Option<String>) -> Result<Change> {
    let not_ours = |path: &Path, why: &str| Error::NotOurs { path: path.to_owned(), why: why.to_owned() };
    let old = match fs::symlink_metadata(&path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
        Err(e) => return Err(Error::io("stat", path, e)),
        Ok(found) if !found.is_file() => {
            return Err(not_ours(&path, "is no regular file, so triplock did not write it; move it away"));
        }
        Ok(_) => Some(fs::read(&path).map_err(|e| Error::io("read", &path, e))?),
    };
    if let Some(old) = &old {
        let text = String::from_utf8_lossy(old);
        match marker::find(&text, owner) {
            Some(block) if block.range == (0..text.len()) && block.is_intact => {}
            Some(_) => {
                let why = "was edited since triplock wrote it; keep your changes elsewhere, then remove the file";
                return Err(not_ours(&path, why));
            }
            None => return Err(not_ours(&path, "is not a file that triplock wrote for this; move it away")),
        }
    }
    Ok(Change { path, old, new })
}

/// A path that no file of a scheduler can hold.
fn no_such_path(path: &Path, why: &str) -> Error {
    Error::BadConfiguration { path: path.to_owned(), line: 0, why: why.to_owned() }
}

/// Whom the marker of what is the job's own names.
pub(crate) fn owner(job: &Name) -> String {
    cron::owner(job)
}

/// What the job's crontab, or its file in /etc/cron.d, is to hold.
///
/// # Errors
/// `BadConfiguration` when a path cannot be written there.
pub(crate) fn cron_text(ground: &Ground, times: &Times) -> Result<String> {
    match ground.scope {
        Scope::System => cron::file(ground, times),
        Scope::User => cron::lines(ground, times),
    }
}

/// What the job's drop-ins are to hold, by their paths below the directory of units.
///
/// # Errors
/// As [`cron_text`].
pub(crate) fn unit_texts(ground: &Ground, times: &Times) -> Result<Vec<(PathBuf, Option<String>)>> {
    let drop_ins = systemd::drop_ins(ground, times)?;
    Ok(drop_ins.into_iter().map(|unit| (unit.path, unit.text)).collect())
}

/// Whether something that reads crontabs runs, as far as that can be seen.
pub(crate) fn cron_runs() -> bool {
    // Where other users' processes are hidden, nobody can tell.
    if fs::read("/proc/1/comm").is_err() || Path::new(CRON_AS_UNITS).exists() {
        return true;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    let is_cron = |name: String| ["cron", "crond", "fcron"].contains(&name.trim_end());
    processes.flatten().any(|process| fs::read_to_string(process.path().join("comm")).is_ok_and(is_cron))
}

/// systemd-cron has no process: it makes units of crontabs.
const CRON_AS_UNITS: &str = "/usr/lib/systemd/system-generators/systemd-crontab-generator";

/// What may go wrong when the scheduler starts the job.
pub(crate) fn doubts(ground: &Ground, runs_as: &Account) -> Vec<String> {
    let mut doubts = reach::warnings("the program", &ground.program, Wish::Execute, runs_as);
    if let Some(program) = ground.definition.program().map(PathBuf::from).filter(|program| program.is_absolute()) {
        doubts.extend(reach::warnings("the job's program", &program, Wish::Execute, runs_as));
    }
    doubts.extend(reach::warnings("the job file", &ground.definition.path, Wish::Read, runs_as));
    doubts.extend(reach::warnings("the state directory", &ground.state, Wish::Fill, runs_as));
    if ground.is_hardened {
        doubts.extend(hardened_doubts(ground));
    }
    doubts
}

/// What the hardened unit lacks.
fn hardened_doubts(ground: &Ground) -> Vec<String> {
    let mut doubts = Vec::new();
    let state = ("the state directory", &*ground.state);
    let files = [("the program", &*ground.program), ("the job file", &*ground.definition.path), state];
    for (what, path) in files {
        for place in ["/tmp", "/var/tmp"].iter().filter(|place| path.starts_with(place)) {
            let path = path.display();
            doubts.push(format!(
                "{what} {path}: the hardened unit has a {place} of its own, and will not find it; have it elsewhere"
            ));
        }
    }
    if !ground.state.is_dir() {
        let state = ground.state.display();
        doubts.push(format!(
            "the state directory {state}: there is none, and in the hardened unit nobody can make it; make it first"
        ));
    }
    if !account::is_group(systemd::GROUP) {
        let group = systemd::GROUP;
        doubts.push(format!(
            "there is no group {group}, which the hardened unit is in; `groupadd --system {group}` makes it"
        ));
    }
    doubts
}

/// What keeps every run from starting: the job's program is not where the scheduler looks.
pub(crate) fn missing_program(ground: &Ground, is_systemd: bool) -> Option<Error> {
    let search = match (is_systemd, ground.scope) {
        (true, Scope::System) => Some(systemd::SEARCH),
        // As the user's session has it, which is not known here.
        (true, Scope::User) => None,
        (false, Scope::System) => Some(cron::SEARCH),
        (false, Scope::User) => Some(cron::OWN_SEARCH),
    };
    program::missing(ground.definition, search)
}

/// Whether the scheduler is there to be told.
///
/// # Errors
/// `NoScheduler` when it is not.
pub(crate) fn is_there(is_systemd: bool, scope: Scope, runtime: Option<&Path>) -> Result<()> {
    if is_systemd {
        return Systemctl { scope }.is_there(runtime);
    }
    if scope == Scope::System && !Path::new(CRON_D).is_dir() {
        let why = format!("no cron here: there is no {CRON_D}; install cron, or use `install systemd`");
        return Err(Error::NoScheduler(why));
    }
    Ok(())
}

impl Plan {
    /// Installs it.
    ///
    /// # Errors
    /// When a file cannot be written or the scheduler refuses; everything is as it was then.
    pub(crate) fn install(&self) -> Result<()> {
        match &self.target {
            Target::Systemd(scope, job, _) => {
                let systemctl = Systemctl { scope: *scope };
                let timer = systemd::timer(job);
                let before = systemctl.state(&timer);
                let written = Written::all(&self.changes)?;
                let goes_on = before.is_active && self.changes.iter().all(Change::is_idle);
                systemctl.begin(&timer, !goes_on).inspect_err(|_| {
                    if !before.is_enabled {
                        let _ = systemctl.end(&timer);
                    }
                    written.undo();
                    systemctl.reload();
                    systemctl.restore(&timer, before);
                })
            }
            Target::CronD => Written::all(&self.changes).map(|_| ()),
            Target::Crontab(crontab) => crontab.write(&self.changes),
        }
    }

    /// Removes it. A job that runs goes on.
    ///
    /// # Errors
    /// When a file cannot be removed, or the scheduler refuses; everything is as it was then.
    pub(crate) fn uninstall(&self, runtime: Option<&Path>) -> Result<()> {
        match &self.target {
            Target::Systemd(scope, job, units) => {
                let systemctl = Systemctl { scope: *scope };
                let is_there = systemctl.is_there(runtime).is_ok();
                let timer = systemd::timer(job);
                let before = systemctl.state(&timer);
                if is_there {
                    systemctl.end(&timer)?;
                }
                let removed = Written::all(&self.changes);
                let _ = removed.inspect_err(|_| systemctl.restore(&timer, before))?;
                for change in &self.changes {
                    let Some(directory) = change.path.parent().filter(|parent| parent.extension().is_some()) else {
                        continue;
                    };
                    // Unless somebody else has a drop-in there.
                    let _ = fs::remove_dir(directory);
                }
                // What `disable` removes, where it could be told.
                let _ = fs::remove_file(units.join("timers.target.wants").join(&timer));
                if is_there {
                    systemctl.forget(&systemd::services(job));
                }
                Ok(())
            }
            Target::CronD => Written::all(&self.changes).map(|_| ()),
            Target::Crontab(crontab) => crontab.write(&self.changes),
        }
    }
}
