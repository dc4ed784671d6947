//! The crontabs of this machine, and what in them starts triplock.

use std::path::{Path, PathBuf};

use super::{
    crontab::{self, Line},
    findings::{Findings, Trouble},
    machine::{Machine, User},
    shell::{self, Variables},
    start::{At, Start, Understand},
};

/// cron(8)'s own, when a crontab sets none.
const PATH: &str = "/usr/bin:/bin";

/// So many command lines of one crontab or unit are looked at: whoever writes more has no person in mind.
pub(super) const MOST_STARTS: usize = 1000;

const SPOOLS: [&str; 2] = ["/var/spool/cron/crontabs", "/var/spool/cron"];

/// Everything in crontabs that starts triplock or flock.
pub(super) fn starts(machine: &Machine, understand: Understand<'_>, findings: &mut Findings) -> Vec<Start> {
    let mut crontabs = Crontabs { machine, understand, findings, found: Vec::new(), given: given(machine) };
    crontabs.system(Path::new("/etc/crontab"));
    for name in machine.names("/etc/cron.d") {
        // Editors' and packagers' copies are nobody's crontab.
        if !name.starts_with(['.', '#']) && !name.ends_with('~') && !name.contains(".dpkg-") && !name.contains(".rpm") {
            crontabs.system(&Path::new("/etc/cron.d").join(name));
        }
    }
    for (user, path, text) in users(machine) {
        crontabs.read(&path, &text, Some(&user));
    }
    crontabs.found
}

/// The crontabs of users: for root all of them, for anybody else his own.
fn users(machine: &Machine) -> Vec<(User, PathBuf, String)> {
    if !machine.me.is_root() && machine.is_this_one() {
        // The spool is closed to users; crontab(1) may read it.
        let text = own();
        return text.map(|text| (machine.me.clone(), PathBuf::new(), text)).into_iter().collect();
    }
    let mut found = Vec::new();
    for spool in SPOOLS {
        for name in machine.names(spool) {
            let path = Path::new(spool).join(&name);
            let user = machine.user(&name);
            if machine.at(&path).is_dir() || name.starts_with('.') || name.starts_with("tmp.") {
                continue;
            }
            if machine.me.is_root() || user == machine.me {
                found.extend(machine.text(&path).map(|text| (user, PathBuf::new(), text)));
            }
        }
    }
    found
}

/// What `crontab -l` prints.
fn own() -> Option<String> {
    use std::{
        io::Read as _,
        process::{Command, Stdio},
    };
    let mut child = Command::new("crontab")
        .arg("-l")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut bytes = Vec::new();
    // With its output closed it ends, however much there is.
    let read = child.stdout.take().map(|stdout| stdout.take(1 << 20).read_to_end(&mut bytes));
    let ended = child.wait();
    (read?.is_ok() && ended.is_ok()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// What PAM's `/etc/environment` gives every job, where cron asks it.
fn given(machine: &Machine) -> Variables {
    let asks = ["/etc/pam.d/cron", "/etc/pam.d/crond"].iter().any(|path| {
        let text = machine.text(path).unwrap_or_default();
        text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains("pam_env.so"))
    });
    if !asks {
        return Variables::new();
    }
    super::unit::environment_file(&machine.text("/etc/environment").unwrap_or_default())
}

struct Crontabs<'a> {
    machine: &'a Machine,
    understand: Understand<'a>,
    findings: &'a mut Findings,
    found: Vec<Start>,
    given: Variables,
}

impl Crontabs<'_> {
    fn system(&mut self, path: &Path) {
        if let Some(text) = self.machine.text(path) {
            self.read(path, &text, None);
        }
    }

    /// `owner`: whose crontab it is; of a system crontab each line says it.
    fn read(&mut self, path: &Path, text: &str, owner: Option<&User>) {
        if !text.contains("triplock") && !text.contains("flock") {
            return;
        }
        let before = self.found.len();
        for line in crontab::parse(text, owner.is_none()) {
            if self.found.len() - before > MOST_STARTS {
                self.machine.leave(path, format!("has more than {MOST_STARTS} such lines"));
                break;
            }
            let at = At {
                of: owner.map(|user| format!("{}'s crontab", user.name)),
                path: path.to_owned(),
                line: line.number,
            };
            self.line(&at, line, owner);
        }
        let found = &self.found[before..];
        let Some(last) = found.last().filter(|start| start.at.path == path) else { return };
        let is_last = last.at.line == text.lines().count();
        if !text.ends_with('\n') && is_last {
            let message = format!("{}: cron ignores a last line without a line end; add an empty line", last.at);
            self.findings.problem(trouble("cron_ignores", message, &last.at));
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if path.starts_with("/etc/cron.d")
            && !name.chars().all(plain)
            && self.machine.at("/etc/debian_version").exists()
        {
            let message = format!(
                "{}: Debian's cron ignores a file with such a name; rename it to {}",
                path.display(),
                path.with_file_name(name.replace(|c| !plain(c), "-")).display()
            );
            self.findings.problem(trouble("cron_ignores", message, &last.at));
        }
    }

    fn line(&mut self, at: &At, line: Line, owner: Option<&User>) {
        let Line { user, command, stdin, environment: set, .. } = line;
        let is_ours = |text: &str| text.contains("triplock");
        if stdin.as_deref().is_some_and(|rest| is_ours(&command) || is_ours(rest)) {
            let message = format!(
                "{at}: cron ends the command at the %, and makes the rest its input: write \\% for every % that is meant"
            );
            self.findings.problem(trouble("percent_in_crontab", message, at));
        }
        let user = owner.cloned().unwrap_or_else(|| self.machine.user(user.as_deref().unwrap_or_default()));
        let mut environment = self.given.clone();
        let mut give = |name: &str, value: &str| environment.insert(name.to_owned(), value.to_owned());
        give("PATH", PATH);
        give("SHELL", "/bin/sh");
        give("LOGNAME", &user.name);
        if let Some(home) = &user.home {
            give("HOME", &home.to_string_lossy());
        }
        environment.extend(set);
        let mut is_known = true;
        for call in shell::calls(&command, &environment) {
            match Start::new(self.machine, at, &user, call, None, self.understand) {
                Ok(start) => {
                    is_known &= user.uid.is_some() || self.machine.has_other_users;
                    self.found.extend(start);
                }
                Err(why) => {
                    let message = format!("{at}: triplock would refuse this command line: {why}");
                    self.findings.problem(trouble("wrong_command_line", message, at));
                }
            }
        }
        if !is_known {
            let message = format!(
                "{at}: there is no user {}, so cron ignores the line; name one that is in /etc/passwd",
                user.name
            );
            self.findings.problem(trouble("unknown_user", message, at).with("user", user.name));
        }
    }
}

/// A problem of one place.
pub(super) fn trouble(word: &'static str, message: String, at: &At) -> Trouble {
    let trouble = Trouble::new(word, message).with("line", at.line);
    match &at.of {
        Some(of) if at.path.as_os_str().is_empty() => trouble.with("in", of.as_str()),
        Some(of) => trouble.with("in", of.as_str()).path(&at.path),
        None => trouble.path(&at.path),
    }
}
