//! What a unit's sandbox makes of the state directory and of lock files (systemd.exec(5)): another directory under the
//! same path, or one that nobody can write to.

use std::path::{Path, PathBuf};

use super::{
    crontabs::trouble,
    findings::{Findings, Trouble},
    machine::Machine,
    start::{Start, Subject},
    unit::{Specifiers, Unit, is_true, split},
};

/// A service that starts triplock or flock.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) unit: Unit,
    pub(super) specifiers: Specifiers,
    /// One of the system's manager, not of a user's.
    pub(super) is_system: bool,
}

/// What a sandbox lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Writable,
    ReadOnly,
    /// Not there, or another directory than outside.
    Hidden,
}

/// One setting's effect on what lies below a path.
struct Rule {
    path: PathBuf,
    seen: Seen,
    /// As it is written.
    because: String,
}

/// Examines each start that is a unit's.
pub(super) fn examine(machine: &Machine, starts: &[Start], findings: &mut Findings) {
    let mut said = Vec::new();
    for start in starts {
        let Some(service) = &start.service else { continue };
        let rules = service.rules();
        let state = match &start.asked.subject {
            // flock(1), and `triplock flock` without a job, have no state.
            Subject::LockFile { job: None, .. } => None,
            _ => start.state_dir(machine).and_then(Result::ok),
        };
        let mut found = Vec::new();
        if let Some(state) = state {
            let needs_write = !matches!(start.asked.subject, Subject::Nothing | Subject::Job(_));
            found.extend(service.state(start, &state, needs_write, &rules));
            found.extend(service.state_directory(start, &state));
        }
        if let Subject::LockFile { path, .. } = &start.asked.subject {
            found.extend(service.lock_file(start, path, &rules));
        }
        for trouble in found {
            // A unit's commands share its sandbox.
            if !said.contains(&trouble.message) {
                said.push(trouble.message.clone());
                findings.problem(trouble);
            }
        }
    }
}

impl Service {
    fn state(&self, start: &Start, state: &Path, needs_write: bool, rules: &[Rule]) -> Option<Trouble> {
        let name = &self.unit.name;
        let (seen, because) = seen(state, rules)?;
        let message = match seen {
            Seen::Hidden if because.ends_with("Tmp") => format!(
                "{name}: {because} gives it a /tmp of its own, so the state directory {} is another one outside: two locks; \
                 move the state directory out of /tmp, or set PrivateTmp=no in the unit",
                state.display()
            ),
            Seen::Hidden => format!(
                "{name}: {because} hides the state directory {}; add BindPaths={} to the unit, or drop {because}",
                state.display(),
                state.display()
            ),
            Seen::ReadOnly if needs_write => format!(
                "{name}: {because} makes the state directory {} read-only, so no job can be recorded or started; add \
                 ReadWritePaths={} to the unit",
                state.display(),
                state.display()
            ),
            Seen::ReadOnly | Seen::Writable => return None,
        };
        let word = match seen {
            Seen::Hidden if because.ends_with("Tmp") => "private_tmp",
            _ => "hidden_state",
        };
        Some(trouble(word, message, &start.at).with("unit", name.as_str()).with("state_dir", state.to_string_lossy()))
    }

    /// `StateDirectory=triplock` gives the directory to the unit's user, and takes it from everybody else.
    fn state_directory(&self, start: &Start, state: &Path) -> Option<Trouble> {
        if !self.is_system {
            return None;
        }
        let has_user = self.unit.last("Service", "User").is_some() || self.is_dynamic();
        let setting = self.unit.all("Service", "StateDirectory").into_iter().find(|setting| {
            let directories = split(&setting.value);
            let names =
                directories.iter().map(|word| self.specifiers.expand(word.split(':').next().unwrap_or_default()).text);
            has_user && names.map(|name| Path::new("/var/lib").join(name)).any(|path| state.starts_with(path))
        })?;
        let message = format!(
            "{}: {} gives {} to the unit's user at each start, so no other user can lock there any more; remove it and \
             add ReadWritePaths={}",
            self.unit.name,
            setting.assignment(),
            state.display(),
            state.display()
        );
        Some(trouble("chowned_state", message, &start.at).with("unit", self.unit.name.as_str()))
    }

    fn lock_file(&self, start: &Start, path: &Path, rules: &[Rule]) -> Option<Trouble> {
        let (seen, because) = seen(path, rules)?;
        if seen != Seen::Hidden {
            // A lock needs no writing, and a file that is missing is said when it is.
            return None;
        }
        let message = format!(
            "{}: {because} gives it another {} than the one outside: two locks; lock a file under /run or /var/lib instead, \
             or use `triplock run`",
            self.unit.name,
            path.display()
        );
        let word = if because.ends_with("Tmp") { "private_tmp" } else { "hidden_state" };
        Some(
            trouble(word, message, &start.at)
                .with("unit", self.unit.name.as_str())
                .with("lock", path.to_string_lossy()),
        )
    }

    fn is_dynamic(&self) -> bool {
        self.unit.is_on("DynamicUser").is_some()
    }

    /// What the settings make of paths; of rules for the same path the later one counts.
    fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut rule = |path: &str, seen, because: &str| {
            rules.push(Rule { path: path.into(), seen, because: because.to_owned() });
        };
        let value = |key| self.unit.last("Service", key).map(|setting| setting.value.to_ascii_lowercase());
        let dynamic = self.is_dynamic().then_some("DynamicUser=");
        for key in ["RootDirectory", "RootImage"] {
            if let Some(setting) = self.unit.last("Service", key).filter(|setting| setting.value != "/") {
                rule("/", Seen::Hidden, &setting.assignment());
            }
        }
        // A dynamic user brings the strict kind with it.
        let system = value("ProtectSystem").filter(|value| value == "full" || value == "strict" || is_true(value));
        match (system.as_deref(), dynamic) {
            (Some("strict"), _) => rule("/", Seen::ReadOnly, "ProtectSystem=strict"),
            (_, Some(dynamic)) => rule("/", Seen::ReadOnly, dynamic),
            (Some(value), _) => {
                for path in ["/usr", "/boot", "/efi"] {
                    rule(path, Seen::ReadOnly, &format!("ProtectSystem={value}"));
                }
                if value == "full" {
                    rule("/etc", Seen::ReadOnly, "ProtectSystem=full");
                }
            }
            (None, None) => {}
        }
        for path in ["/dev", "/proc", "/sys"] {
            rule(path, Seen::Writable, "");
        }
        let home = match value("ProtectHome").as_deref() {
            Some("read-only") => Some((Seen::ReadOnly, "ProtectHome=read-only".to_owned())),
            Some(value) if value == "tmpfs" || is_true(value) => Some((Seen::Hidden, format!("ProtectHome={value}"))),
            _ => dynamic.map(|dynamic| (Seen::ReadOnly, dynamic.to_owned())),
        };
        if let Some((seen, because)) = home {
            for path in ["/home", "/root", "/run/user"] {
                rule(path, seen, &because);
            }
        }
        let private = value("PrivateTmp").filter(|value| value == "disconnected" || is_true(value));
        if private.is_some() || dynamic.is_some() {
            let because = if private.is_some() { "PrivateTmp" } else { "DynamicUser= with its PrivateTmp" };
            for path in ["/tmp", "/var/tmp"] {
                rule(path, Seen::Hidden, because);
            }
        }
        let named = [
            ("ReadOnlyPaths", Seen::ReadOnly),
            ("TemporaryFileSystem", Seen::Hidden),
            ("ReadWritePaths", Seen::Writable),
            ("InaccessiblePaths", Seen::Hidden),
        ];
        for (key, seen) in named {
            for setting in self.unit.all("Service", key) {
                for word in split(&setting.value) {
                    let path = self.specifiers.expand(word.trim_start_matches(['-', '+']));
                    let path = path.text.split(':').next().unwrap_or_default();
                    rule(path, seen, &format!("{key}={path}"));
                }
            }
        }
        for key in ["BindPaths", "BindReadOnlyPaths"] {
            for setting in self.unit.all("Service", key) {
                for word in split(&setting.value) {
                    let word = self.specifiers.expand(word.trim_start_matches('-')).text;
                    let mut parts = word.split(':');
                    let from = parts.next().unwrap_or_default();
                    let to = parts.next().filter(|to| !to.is_empty()).unwrap_or(from);
                    let seen = match (from == to, key) {
                        (false, _) => Seen::Hidden,
                        (true, "BindPaths") => Seen::Writable,
                        (true, _) => Seen::ReadOnly,
                    };
                    rule(to, seen, &format!("{key}={word}"));
                }
            }
        }
        // These are made, bound and writable wherever they are.
        for (key, above) in [
            ("StateDirectory", "/var/lib"),
            ("CacheDirectory", "/var/cache"),
            ("LogsDirectory", "/var/log"),
            ("RuntimeDirectory", "/run"),
        ] {
            for setting in self.unit.all("Service", key).into_iter().filter(|_| self.is_system) {
                for word in split(&setting.value) {
                    let name = self.specifiers.expand(word.split(':').next().unwrap_or_default()).text;
                    rule(&format!("{above}/{name}"), Seen::Writable, key);
                }
            }
        }
        rules
    }
}

/// What the nearest rule makes of a path.
fn seen(path: &Path, rules: &[Rule]) -> Option<(Seen, String)> {
    let of = rules.iter().filter(|rule| path.starts_with(&rule.path));
    // Of equals the last one.
    let nearest = of.max_by_key(|rule| rule.path.components().count())?;
    Some((nearest.seen, nearest.because.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(settings: &str, path: &str) -> Option<Seen> {
        let mut unit = Unit::new("x.service");
        unit.read(Path::new("/x"), &format!("[Service]\n{settings}"));
        let service = Service { unit, specifiers: Specifiers::default(), is_system: true };
        seen(Path::new(path), &service.rules()).map(|(seen, _)| seen)
    }

    #[test]
    fn the_nearest_setting_decides() {
        use Seen::{Hidden, ReadOnly, Writable};
        let state = "/var/lib/triplock";
        for (settings, path, expected) in [
            ("", state, None),
            ("ProtectSystem=strict", state, Some(ReadOnly)),
            ("ProtectSystem=strict\nReadWritePaths=-/var/lib/triplock /x", state, Some(Writable)),
            ("ProtectSystem=strict\nReadWritePaths=/var", state, Some(Writable)),
            ("ProtectSystem=strict\nStateDirectory=triplock", state, Some(Writable)),
            ("ProtectSystem=full", state, None),
            ("ProtectSystem=full", "/etc/s", Some(ReadOnly)),
            ("ProtectSystem=true", "/etc/s", None),
            ("ProtectSystem=true", "/usr/s", Some(ReadOnly)),
            ("ProtectHome=yes", "/home/a/s", Some(Hidden)),
            ("ProtectHome=read-only\nReadWritePaths=/home/a/s", "/home/a/s", Some(Writable)),
            ("ProtectHome=no", "/home/a/s", None),
            ("PrivateTmp=yes", "/tmp/s", Some(Hidden)),
            ("PrivateTmp=no", "/tmp/s", None),
            ("PrivateTmp=yes", "/tmpx/s", None),
            ("DynamicUser=yes", "/var/tmp/s", Some(Hidden)),
            ("DynamicUser=yes", state, Some(ReadOnly)),
            ("DynamicUser=yes", "/home/a/s", Some(ReadOnly)),
            ("ReadOnlyPaths=/var", state, Some(ReadOnly)),
            ("InaccessiblePaths=/var/lib", state, Some(Hidden)),
            ("TemporaryFileSystem=/var:ro", state, Some(Hidden)),
            ("TemporaryFileSystem=/var\nBindPaths=/var/lib/triplock", state, Some(Writable)),
            ("BindPaths=/other:/var/lib/triplock", state, Some(Hidden)),
            ("RootDirectory=/srv/root", state, Some(Hidden)),
            ("RootDirectory=/srv/root\nBindPaths=/var/lib/triplock:/var/lib/triplock:rbind", state, Some(Writable)),
        ] {
            assert_eq!(look(settings, path), expected, "{settings}: {path}");
        }
    }
}
