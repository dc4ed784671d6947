//! What one job file says.

use std::path::Path;

use toml::{
    Spanned,
    de::{DeString, DeValue},
};

use super::{Alerts, Definition, Placed, Schedule};
use crate::{
    config::{Document, Integer, Problem, Value, array, boolean, nearest, parsed, text, word},
    duration,
    job::{
        settings::{self, Settings},
        signal,
    },
    name::Name,
};

/// One job file, understood.
#[derive(Debug, Default)]
pub(super) struct JobFile {
    /// The jobs that are whole.
    pub(super) definitions: Vec<Definition>,
    /// Everything that is wrong, in the order of the lines.
    pub(super) problems: Vec<Problem>,
    /// The name of every job that it defines, also of those that are not whole.
    names: Vec<String>,
}

impl JobFile {
    pub(super) fn understand(path: &Path, source: &str) -> Self {
        let (mut document, top) = Document::parse(path, source);
        // What seems to be missing may stand where the parser lost its way.
        let is_toml = !document.has_problems();
        let mut file = Self::default();
        for (key, value) in top.get_ref() {
            if key.get_ref() != "jobs" {
                document.unknown(key, "", &["jobs"]);
            } else if let Some(jobs) = document.table("jobs", value) {
                for (name, job) in jobs {
                    file.names.push(name.get_ref().clone().into_owned());
                    document.job = Some(name.get_ref().clone().into_owned());
                    file.definitions.extend(definition(&mut document, path, is_toml, name, job));
                    document.job = None;
                }
            }
        }
        file.problems = document.into_problems();
        file
    }

    /// Whether the file defines the job, as far as that can be told: of a file that is not TOML, a line that speaks of
    /// `jobs` and of that name is enough.
    pub(super) fn claims(&self, job: &Name, source: &str) -> bool {
        let separate = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let words = |line: &str, wanted: &str| line.split(separate).any(|word| word == wanted);
        // A name may hold dots, which separate words.
        let speaks = |line: &str| words(line, "jobs") && line.contains(job.as_str());
        self.names.iter().any(|name| name == job.as_str()) || (!self.problems.is_empty() && source.lines().any(speaks))
    }
}

/// The keys that say what the job is.
const OWN_KEYS: [&str; 2] = ["command", "description"];

/// The keys that say when and as whom a scheduler starts it.
const SCHEDULE: [&str; 3] = ["on_calendar", "cron", "user"];

/// The keys that say when `check` raises an alarm.
const ALERTS: [&str; 4] = ["expect_every", "alert_after", "alert_running", "alert_skips"];

/// The options of `run`, with `_` for `-`. (`nonblock` is `policy = "skip"`, and `lock`, which may be repeated there,
/// is `locks`.)
const SETTINGS: [&str; 23] = [
    "policy",
    "wait",
    "conflict_exit_code",
    "stop_exit_code",
    "slots",
    "locks",
    "time_limit",
    "kill_after",
    "signal",
    "retries",
    "retry_delay",
    "retry_backoff",
    "retry_max_delay",
    "ok_exit",
    "once_per",
    "jitter",
    "lease",
    "tick",
    "hold",
    "close",
    "output",
    "keep_runs",
    "log_limit",
];

fn known() -> impl Iterator<Item = &'static str> {
    OWN_KEYS.into_iter().chain(SCHEDULE).chain(ALERTS).chain(SETTINGS)
}

fn definition<'t>(
    document: &mut Document<'t>,
    path: &Path,
    is_toml: bool,
    key: &Spanned<DeString<'t>>,
    value: &Value<'t>,
) -> Option<Definition> {
    let name = match key.get_ref().parse::<Name>() {
        Ok(name) => name,
        Err(e) => {
            document.problem(key.span(), e.to_string());
            return None;
        }
    };
    let table = document.table(&format!("jobs.{name}"), value)?;
    let inside = format!("job {name}: ");
    let (mut command, mut description, mut settings) = (None, None, Settings::default());
    let (mut schedule, mut alerts) = (Schedule::default(), Alerts::default());
    let mut whole = true;
    for (key, value) in table {
        let name: &str = key.get_ref();
        let understood = match name {
            "command" => words_of(value.get_ref()).map(|words| command = Some(words)),
            "description" => text(value.get_ref()).map(|text| description = Some(text.to_owned())),
            name => match set(&mut settings, name, value.get_ref())
                .or_else(|| set_schedule(document, &mut schedule, name, value))
                .or_else(|| set_alert(&mut alerts, name, value.get_ref()))
            {
                Some(understood) => understood,
                None => {
                    document.unknown(key, &inside, &known().collect::<Vec<_>>());
                    whole = false;
                    continue;
                }
            },
        };
        if let Err(why) = understood {
            document.problem(value.span(), format!("{inside}{name}: {why}"));
            whole = false;
        }
    }
    if let Some(contradiction) = settings.contradiction() {
        document.problem(key.span(), format!("{inside}{contradiction}"));
        whole = false;
    }
    // (`comand` has had its line.)
    let misspelt = || table.keys().any(|key| nearest(key.get_ref(), known()) == Some("command"));
    if command.is_none() && is_toml && !misspelt() {
        document.problem(key.span(), format!("{inside}there is no command; add command = [\"program\", \"argument\"]"));
    }
    let line = document.line(key.span().start);
    let definition =
        Definition { name, command: command?, description, settings, schedule, alerts, path: path.to_owned(), line };
    whole.then_some(definition)
}

/// Sets one of [`SCHEDULE`], or says that the key is none.
fn set_schedule<'t>(
    document: &Document<'t>,
    schedule: &mut Schedule,
    key: &str,
    value: &Value<'t>,
) -> Option<Result<(), String>> {
    let at = |value: &Value<'t>| -> Result<Placed, String> {
        let text = one_line(text(value.get_ref())?)?.to_owned();
        Ok(Placed { text, line: document.line(value.span().start) })
    };
    let several = |value: &Value<'t>| -> Result<Vec<Placed>, String> {
        match value.get_ref().as_array() {
            Some(values) if values.is_empty() => Err("it is empty; leave it out".to_owned()),
            Some(values) => values.iter().map(at).collect(),
            None => at(value).map(|one| vec![one]),
        }
    };
    Some(match key {
        "on_calendar" => several(value).map(|times| schedule.on_calendar = times),
        "cron" => several(value).map(|times| schedule.cron = times),
        "user" => at(value).map(|user| schedule.user = Some(user)),
        _ => return None,
    })
}

/// What becomes a line of a unit or a crontab, and must not become two.
fn one_line(text: &str) -> Result<&str, String> {
    match text.trim() {
        "" => Err("it is empty; leave it out".to_owned()),
        text if text.contains(char::is_control) => Err("it holds a control character; take it out".to_owned()),
        text => Ok(text),
    }
}

/// Sets one of [`ALERTS`], or says that the key is none.
fn set_alert(alerts: &mut Alerts, key: &str, value: &DeValue<'_>) -> Option<Result<(), String>> {
    let time = |value| parsed(value, Integer::OrFloat, settings::time).map(Some);
    let count = |value| parsed(value, Integer::Only, settings::positive_count).map(Some);
    Some(match key {
        "expect_every" => time(value).map(|every| alerts.expect_every = every),
        "alert_after" => count(value).map(|failures| alerts.alert_after = failures),
        "alert_running" => time(value).map(|longest| alerts.alert_running = longest),
        "alert_skips" => count(value).map(|skips| alerts.alert_skips = skips),
        _ => return None,
    })
}

/// A command: its words, or a line for the shell.
fn words_of(value: &DeValue<'_>) -> Result<Vec<std::ffi::OsString>, String> {
    let words = match value {
        DeValue::Array(_) => array(value, |word| text(word).map(str::to_owned))?,
        DeValue::String(_) => match text(value)?.trim() {
            "" => Vec::new(),
            line => ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        },
        _ => return Err("give the words, [\"program\", \"argument\"], or a line for the shell in quotes".to_owned()),
    };
    match words.first() {
        None => Err("it is empty; name a program".to_owned()),
        Some(program) if program.is_empty() => Err("the program's name is empty".to_owned()),
        Some(_) => Ok(words.into_iter().map(Into::into).collect()),
    }
}

/// Sets one of [`SETTINGS`], or says that the key is none.
fn set(settings: &mut Settings, key: &str, value: &DeValue<'_>) -> Option<Result<(), String>> {
    fn keep<T>(slot: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
        value.map(|value| *slot = Some(value))
    }
    let time = |parse: fn(&str) -> Result<std::time::Duration, String>| parsed(value, Integer::OrFloat, parse);
    Some(match key {
        "policy" => keep(&mut settings.policy, word(value)),
        "wait" => keep(&mut settings.wait, time(duration::parse)),
        "conflict_exit_code" => {
            keep(&mut settings.conflict_exit_code, parsed(value, Integer::Only, settings::exit_code))
        }
        "stop_exit_code" => keep(&mut settings.stop_exit_code, parsed(value, Integer::Only, settings::exit_code)),
        "slots" => keep(&mut settings.slots, parsed(value, Integer::Only, settings::slots)),
        "locks" => {
            keep(&mut settings.locks, array(value, |name| text(name)?.parse::<Name>().map_err(|e| e.to_string())))
        }
        "time_limit" => keep(&mut settings.time_limit, time(settings::time)),
        "kill_after" => keep(&mut settings.kill_after, time(duration::parse)),
        "signal" => keep(&mut settings.signal, parsed(value, Integer::OrText, signal::parse)),
        "retries" => keep(&mut settings.retries, parsed(value, Integer::Only, settings::count)),
        "retry_delay" => keep(&mut settings.retry_delay, time(duration::parse)),
        "retry_backoff" => keep(
            &mut settings.retry_backoff,
            match value {
                DeValue::String(_) => Err("write the number without quotes".to_owned()),
                _ => parsed(value, Integer::OrFloat, settings::backoff),
            },
        ),
        "retry_max_delay" => keep(&mut settings.retry_max_delay, time(duration::parse)),
        "ok_exit" => keep(&mut settings.ok_exit, codes(value)),
        "once_per" => keep(&mut settings.once_per, time(settings::time)),
        "jitter" => keep(&mut settings.jitter, time(duration::parse)),
        "lease" => keep(&mut settings.lease, time(settings::lease)),
        "tick" => keep(&mut settings.tick, text(value).and_then(settings::tick)),
        "hold" => keep(&mut settings.hold, word(value)),
        "close" => keep(&mut settings.close, boolean(value)),
        "output" => keep(&mut settings.output, word(value)),
        "keep_runs" => keep(&mut settings.keep_runs, parsed(value, Integer::Only, settings::count)),
        "log_limit" => keep(&mut settings.log_limit, parsed(value, Integer::OrText, settings::bytes)),
        _ => return None,
    })
}

fn codes(value: &DeValue<'_>) -> Result<Vec<u8>, String> {
    let codes = array(value, |code| parsed(code, Integer::Only, settings::exit_code))?;
    if codes.is_empty() {
        Err("it is empty, so every run would fail; leave it out for [0]".to_owned())
    } else {
        Ok(codes)
    }
}

#[cfg(test)]
mod tests;
