//! systemd's units on this machine, and what in them starts triplock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    confinement::Service,
    crontabs::{MOST_STARTS, trouble},
    findings::Findings,
    installed::Installed,
    machine::{Machine, User},
    read::Read,
    shell::{self, Variables},
    start::{At, Start, Subject, Understand},
    unit::{self, Specifiers, Unit},
};
use crate::install::{self, Scope};

/// Where units are, the nearest first.
const SYSTEM: [&str; 7] = [
    "/etc/systemd/system",
    "/run/systemd/transient",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const USER: [&str; 4] =
    ["/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"];

/// What systemd itself gives a service, and where it looks for a program without a slash.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// So many services and users are looked at; a machine has some hundred.
const MOST: usize = 20_000;

/// Everything in units that starts triplock or flock.
pub(super) fn starts(machine: &Machine, understand: Understand<'_>, findings: &mut Findings) -> Vec<Start> {
    let mut found = Vec::new();
    let system = Manager { machine, directories: SYSTEM.map(PathBuf::from).to_vec(), user: None };
    system.starts(understand, findings, &mut found);
    for user in users(machine) {
        let home = user.home.clone().unwrap_or_default();
        let own = [home.join(".config/systemd/user")];
        let directories =
            own.into_iter().chain(USER.map(PathBuf::from)).chain([home.join(".local/share/systemd/user")]);
        let manager = Manager { machine, directories: directories.collect(), user: Some(user) };
        manager.starts(understand, findings, &mut found);
    }
    found
}

/// Those who may have units of their own, and whose units this user may see.
fn users(machine: &Machine) -> Vec<User> {
    if !machine.me.is_root() {
        return vec![machine.me.clone()];
    }
    let has_units = |user: &&User| {
        let home = user.home.as_ref();
        user.is_root() || home.is_some_and(|home| machine.at(home.join(".config/systemd/user")).is_dir())
    };
    machine.users.iter().filter(has_units).take(MOST).cloned().collect()
}

/// A systemd: the system's, or a user's.
struct Manager<'a> {
    machine: &'a Machine,
    directories: Vec<PathBuf>,
    user: Option<User>,
}

/// The names in each directory.
type Names = Vec<(PathBuf, BTreeSet<String>)>;

impl Manager<'_> {
    fn starts(&self, understand: Understand<'_>, findings: &mut Findings, found: &mut Vec<Start>) {
        let names: Names = self
            .directories
            .iter()
            .map(|directory| (directory.clone(), self.machine.names(directory).into_iter().collect()))
            .collect();
        let mut texts = HashMap::new();
        let mut waiting = self.services(&names, &mut texts);
        let mut seen = BTreeSet::new();
        while let Some(name) = waiting.pop_first() {
            if seen.len() >= MOST || !seen.insert(name.clone()) {
                continue;
            }
            let Some(unit) = self.unit(&name, &names, &mut texts) else { continue };
            let specifiers = self.specifiers(&unit);
            for key in ["OnFailure", "OnSuccess"] {
                let others = unit.all("Unit", key);
                waiting.extend(
                    others.iter().flat_map(|other| unit::split(&other.value)).map(|name| specifiers.expand(&name).text),
                );
            }
            self.service(unit, specifiers, understand, findings, found);
        }
    }

    /// The names of services that something may start. A template is none without an instance.
    fn services(&self, names: &Names, texts: &mut HashMap<PathBuf, Read>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (directory, names_in) in names {
            for name in names_in {
                let path = directory.join(name);
                if unit::is_a(name, "wants") || unit::is_a(name, "requires") {
                    found.extend(self.machine.names(&path));
                } else {
                    found.insert(name.strip_suffix(".d").unwrap_or(name).to_owned());
                }
            }
        }
        let timers: Vec<_> = found.iter().filter(|name| unit::is_a(name, "timer")).cloned().collect();
        for timer in timers {
            let other = self.unit(&timer, names, texts).and_then(|unit| {
                let specifiers = self.specifiers(&unit);
                unit.last("Timer", "Unit").map(|setting| specifiers.expand(&setting.value).text)
            });
            found.insert(other.unwrap_or_else(|| timer.replace(".timer", ".service")));
        }
        found.retain(|name| unit::is_a(name, "service") && !name.ends_with("@.service"));
        found
    }

    /// The unit with its drop-ins, if it has anything to do with us.
    fn unit(&self, name: &str, names: &Names, texts: &mut HashMap<PathBuf, Read>) -> Option<Unit> {
        let (stem, kind) = name.rsplit_once('.')?;
        let template = stem.split_once('@').map(|(stem, _)| format!("{stem}@.{kind}"));
        let mut read = |path: &Path| texts.entry(path.to_owned()).or_insert_with(|| self.machine.read(path)).clone();
        let of = |wanted: &str| names.iter().find(|(_, names)| names.contains(wanted)).map(|(dir, _)| dir.join(wanted));
        let fragment = of(name).or_else(|| of(template.as_ref()?))?;
        if self.is_alias(&fragment, name, template.as_deref()) {
            return None;
        }
        let mut parts = match read(&fragment) {
            Read::Text(text) => vec![(fragment, text)],
            _ => return None,
        };
        let mut drop_ins: BTreeMap<String, PathBuf> = BTreeMap::new();
        for directory in [Some(name), template.as_deref(), Some(kind)].into_iter().flatten() {
            let directory = format!("{directory}.d");
            for (above, names) in names {
                if names.contains(&directory) {
                    let path = above.join(&directory);
                    for file in self.machine.names(&path).into_iter().filter(|file| unit::is_a(file, "conf")) {
                        drop_ins.entry(file.clone()).or_insert_with(|| path.join(file));
                    }
                }
            }
        }
        for path in drop_ins.into_values() {
            if let Read::Text(text) = read(&path) {
                parts.push((path, text));
            }
        }
        let is_ours =
            kind == "timer" || parts.iter().any(|(_, text)| text.contains("triplock") || text.contains("flock"));
        is_ours.then(|| {
            let mut unit = Unit::new(name);
            for (path, text) in &parts {
                unit.read(path, text);
            }
            unit
        })
    }

    /// Whether it is another name of a unit, which is looked at under its own.
    fn is_alias(&self, path: &Path, name: &str, template: Option<&str>) -> bool {
        let target = std::fs::read_link(self.machine.at(path)).ok();
        let target = target.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        target.is_some_and(|target| unit::is_a(target, "service") && target != name && Some(target) != template)
    }

    fn specifiers(&self, unit: &Unit) -> Specifiers {
        let named = unit.last("Service", "User").map(|setting| setting.value.clone());
        let user = match &self.user {
            Some(user) => user.clone(),
            None => self.machine.user(named.as_deref().unwrap_or("root")),
        };
        let home = user.home.as_ref().map(|home| home.to_string_lossy().into_owned()).unwrap_or_default();
        let state = if self.user.is_some() { format!("{home}/.local/state") } else { "/var/lib".to_owned() };
        Specifiers { unit: unit.name.clone(), user: user.name, home, state }
    }

    fn service(
        &self,
        unit: Unit,
        specifiers: Specifiers,
        understand: Understand<'_>,
        findings: &mut Findings,
        found: &mut Vec<Start>,
    ) {
        let named = unit.last("Service", "User").map(|setting| specifiers.expand(&setting.value).text);
        let is_dynamic = unit.is_on("DynamicUser").is_some();
        let user = match (&self.user, &named) {
            (Some(user), _) => user.clone(),
            (None, Some(name)) => self.machine.user(name),
            (None, None) if is_dynamic => User { name: specifiers.unit.clone(), ..User::default() },
            (None, None) => self.machine.user("root"),
        };
        let environment = self.environment(&unit, &specifiers, &user, named.is_some());
        let service = Rc::new(Service { unit, specifiers, is_system: self.user.is_none() });
        let before = found.len();
        for setting in service.unit.commands() {
            if found.len() - before > MOST_STARTS {
                self.machine.leave(&setting.path, format!("has more than {MOST_STARTS} such lines"));
                break;
            }
            let at = At { of: Some(service.unit.name.clone()), path: setting.path.clone(), line: setting.line };
            for (prefix, words) in service.specifiers.commands(&setting.value, &environment) {
                // With full privileges: as root, and unconfined.
                let is_full = prefix.contains('+');
                let user = if is_full { self.machine.user("root") } else { user.clone() };
                for call in shell::calls_of(&words, &environment) {
                    let confined = Some(&service).filter(|_| !is_full);
                    match Start::new(self.machine, &at, &user, call, confined, understand) {
                        Ok(start) => found.extend(start.map(|start| self.marked(start))),
                        Err(why) => {
                            let message = format!("{at}: triplock would refuse this command line: {why}");
                            findings.problem(trouble("wrong_command_line", message, &at));
                        }
                    }
                }
            }
        }
    }

    /// One that `install` wrote is known as such.
    fn marked(&self, mut start: Start) -> Start {
        let Subject::Run { job, .. } = &start.asked.subject else { return start };
        let ending = format!("triplock@{job}.service.d/triplock.conf");
        if !start.at.path.ends_with(ending) {
            return start;
        }
        let text = self.machine.text(&start.at.path).unwrap_or_default();
        let owner = install::owner(job);
        if let Some(block) = install::blocks(&text).find(|block| block.owner == owner) {
            let scope = if self.user.is_some() { Scope::User } else { Scope::System };
            let (is_intact, text) = (block.is_intact, text[block.range].to_owned());
            start.installed = Some(Rc::new(Installed { is_systemd: true, scope, is_intact, text }));
        }
        start
    }

    /// What systemd gives the service.
    fn environment(&self, unit: &Unit, specifiers: &Specifiers, user: &User, is_named: bool) -> Variables {
        let mut environment = Variables::from([("PATH".to_owned(), PATH.to_owned())]);
        // A system service without User= is root's and has no HOME.
        if is_named || self.user.is_some() {
            let home = user.home.as_ref().map(|home| home.to_string_lossy().into_owned());
            environment.extend(home.map(|home| ("HOME".to_owned(), home)));
            environment.insert("USER".to_owned(), user.name.clone());
            environment.insert("LOGNAME".to_owned(), user.name.clone());
        }
        environment.extend(self.defaults());
        let assign = |environment: &mut Variables, text: &str| {
            let word = specifiers.expand(text);
            if let Some((name, value)) = shell::assignment(&word.text).filter(|_| !word.is_uncertain) {
                environment.insert(name.to_owned(), value.to_owned());
            }
        };
        for setting in unit.all("Service", "Environment") {
            for word in unit::split(&setting.value) {
                assign(&mut environment, &word);
            }
        }
        for setting in unit.all("Service", "EnvironmentFile") {
            let path = specifiers.expand(setting.value.trim_start_matches('-')).text;
            if path.starts_with('/') && !path.contains('*') {
                environment.extend(unit::environment_file(&self.machine.text(path).unwrap_or_default()));
            }
        }
        for setting in unit.all("Service", "UnsetEnvironment") {
            for word in unit::split(&setting.value) {
                environment.remove(word.split('=').next().unwrap_or_default());
            }
        }
        environment
    }

    /// What the manager gives every service.
    fn defaults(&self) -> Variables {
        let mut defaults = Variables::new();
        let name = if self.user.is_some() { "user" } else { "system" };
        let mut manager = Unit::new(format!("{name}.conf"));
        let base = PathBuf::from(format!("/etc/systemd/{name}.conf"));
        let directory = PathBuf::from(format!("/etc/systemd/{name}.conf.d"));
        let files = self.machine.names(&directory).into_iter().map(|file| directory.join(file));
        for path in [base].into_iter().chain(files) {
            manager.read(&path, &self.machine.text(&path).unwrap_or_default());
        }
        for setting in manager.all("Manager", "DefaultEnvironment") {
            for word in unit::split(&setting.value) {
                defaults.extend(shell::assignment(&word).map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
        }
        if let Some(home) = self.user.as_ref().and_then(|user| user.home.as_ref()) {
            for directory in [
                Path::new("/usr/lib/environment.d"),
                Path::new("/etc/environment.d"),
                &home.join(".config/environment.d"),
            ] {
                for file in self.machine.names(directory).into_iter().filter(|file| unit::is_a(file, "conf")) {
                    let set = unit::environment_file(&self.machine.text(directory.join(file)).unwrap_or_default());
                    // What refers to other variables is left out.
                    defaults.extend(set.into_iter().filter(|(_, value)| !value.contains('$')));
                }
            }
        }
        defaults
    }
}
