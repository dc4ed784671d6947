//! `install` and `uninstall`: a job made known to a scheduler, and taken back.

use std::{
    ffi::OsStr,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use chrono::Local;
use serde::Serialize;

use super::{state_path, written};
use crate::{
    cli::{self, Global, Scheduler},
    clock::{Clock as _, SystemClock},
    config::Places,
    dir::{Environment, StateDir},
    error::{Error, Result},
    exit::ExitCode,
    install::{self, Account, Ground, Plan, Scope, Turn},
    job::definition::Sources,
    name::Name,
    output::Output,
    schedule::{ChangeKind, ClockChange, Moment, Times},
};

/// What was done, or would be.
#[derive(Serialize)]
struct Report<'a> {
    did: &'static str,
    scheduler: &'static str,
    scope: Scope,
    job: &'a Name,
    dry_run: bool,
    files: Vec<File<'a>>,
    #[serde(flatten)]
    times: Option<&'a Times>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    see: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct File<'a> {
    path: &'a Path,
    change: &'static str,
    /// What it would hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

pub(super) fn install(output: &Output, global: &Global, args: &cli::Install) -> anyhow::Result<ExitCode> {
    let environment = Environment::current();
    let scope = scope(&args.scope);
    let is_systemd = args.scheduler == Scheduler::Systemd;
    if args.hardened && !is_systemd {
        return Err(Error::Usage("--hardened is about units; cron has nothing of that kind".to_owned()).into());
    }
    if args.hardened && scope == Scope::User {
        let why = "--hardened needs --system: a user's own systemd cannot take away what the drop-in takes away";
        return Err(Error::Usage(why.to_owned()).into());
    }
    let definition = Sources::new(args.config.as_deref(), &environment)?.required(&args.job)?;
    let now = SystemClock.now();
    let times = if is_systemd { Times::of_systemd(&definition, now)? } else { Times::of_cron(&definition, now)? };
    let user = install::user(&definition, scope)?;
    let started_as = std::env::args_os().next();
    let program = install::binary_path(started_as.as_deref(), std::env::var_os("PATH").as_ref())?;
    if !args.dry_run {
        let own_file = config(&definition.path, &environment)?.filter(|_| args.config.is_none());
        let own_state = environment.state_dir.as_deref().filter(|_| global.state_dir.is_none());
        has_rights(scope, &program, own_state, own_file.as_deref())?;
        install::is_there(is_systemd, scope, runtime(&environment))?;
    }
    let state = state(global, &environment, scope)?;
    let config = config(&definition.path, &environment)?;
    let _turn = turn(args.dry_run);
    let ground = Ground { definition: &definition, program, state, config, scope, user, is_hardened: args.hardened };
    let missing = install::missing_program(&ground, is_systemd);
    if !args.dry_run {
        // Each run would fail, and who installs from a script sees an exit code only.
        missing.clone().map_or(Ok(()), Err)?;
        if ground.user.is_none() {
            StateDir::open_existing(&ground.state, global.allow_network_fs)?;
        }
    }
    let plan = match args.scheduler {
        Scheduler::Systemd => install::with_systemd(&ground, &times, &units(&environment, scope)?)?,
        Scheduler::Cron => install::with_cron(&ground, &times, args.dry_run)?,
    };
    if !args.dry_run {
        plan.install()?;
    }
    let own = Account::own().filter(|_| scope == Scope::User);
    let runs_as = ground.user.clone().or(own).or_else(|| Account::of("root"));
    let mut warnings = times.warnings.clone();
    warnings.extend(missing.map(|e| e.to_string()));
    warnings.extend(other_clock(args.scheduler));
    warnings.extend(other_store(global)?);
    if !is_systemd && !args.dry_run && !install::cron_runs() {
        warnings
            .push("cron does not seem to run, and starts nothing then; start it, or use `install systemd`".to_owned());
    }
    warnings.extend(runs_as.iter().flat_map(|account| install::doubts(&ground, account)));
    if let (true, Scope::User, Some(account)) = (is_systemd, scope, &runs_as) {
        if !Path::new("/var/lib/systemd/linger").join(&account.name).exists() {
            let name = &account.name;
            warnings.push(format!(
                "{name}'s timers run only while {name} is logged in; `loginctl enable-linger {name}` changes that"
            ));
        }
    }
    let report = Report {
        did: "install",
        scheduler: word(args.scheduler),
        scope,
        job: &args.job,
        dry_run: args.dry_run,
        files: files(&plan, args.dry_run),
        times: Some(&times),
        see: see(args.scheduler, scope, &args.job),
        warnings,
    };
    tell(output, &report)
}

pub(super) fn uninstall(output: &Output, args: &cli::Uninstall) -> anyhow::Result<ExitCode> {
    let environment = Environment::current();
    let scope = scope(&args.scope);
    let _turn = turn(args.dry_run);
    let plan = match args.scheduler {
        Scheduler::Systemd => install::without_systemd(&args.job, scope, &units(&environment, scope)?)?,
        Scheduler::Cron => install::without_cron(&args.job, scope, args.dry_run)?,
    };
    if !args.dry_run && !plan.changes.is_empty() {
        let started_as = std::env::args_os().next();
        // Whether it is still there does not matter to a removal.
        let program = install::binary_path(started_as.as_deref(), std::env::var_os("PATH").as_ref());
        has_rights(scope, &program.unwrap_or_else(|_| "triplock".into()), None, None)?;
        plan.uninstall(runtime(&environment))?;
    }
    let report = Report {
        did: "uninstall",
        scheduler: word(args.scheduler),
        scope,
        job: &args.job,
        dry_run: args.dry_run,
        files: files(&plan, false),
        times: None,
        see: Vec::new(),
        warnings: Vec::new(),
    };
    tell(output, &report)
}

fn word(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Systemd => "systemd",
        Scheduler::Cron => "cron",
    }
}

fn scope(given: &cli::InstallScope) -> Scope {
    match rustix::process::geteuid().is_root() {
        _ if given.system => Scope::System,
        true if !given.user => Scope::System,
        _ => Scope::User,
    }
}

/// The system's scheduler is root's. The command that is named for root means what this one does here, where sudo(8)
/// passes on no environment.
fn has_rights(scope: Scope, program: &Path, state: Option<&OsStr>, job_file: Option<&Path>) -> Result<()> {
    if scope == Scope::User || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut words = vec![program.to_string_lossy().into_owned()];
    if let Some(state) = state {
        words.extend(["--state-dir".to_owned(), state.to_string_lossy().into_owned()]);
    }
    words.extend(std::env::args().skip(1));
    if let Some(file) = job_file {
        words.extend(["--config".to_owned(), file.to_string_lossy().into_owned()]);
    }
    let command = words.iter().map(|word| install::word_in_shell(word)).collect::<Vec<_>>().join(" ");
    Err(Error::Denied {
        path: "/etc".into(),
        why: format!("only root may change the machine's schedulers; run `sudo {command}`, or use --user"),
    })
}

/// `$TZ` is this shell's, and schedulers go by the machine's clock.
fn other_clock(scheduler: Scheduler) -> Option<String> {
    let zone = std::env::var("TZ").ok().filter(|zone| !zone.is_empty())?;
    let name = zone.strip_prefix(':').unwrap_or(&zone);
    let is_machines = match std::fs::read("/etc/localtime") {
        Ok(machines) => std::fs::read(Path::new("/usr/share/zoneinfo").join(name)).is_ok_and(|named| named == machines),
        Err(_) => ["UTC", "UTC0"].contains(&name),
    };
    let scheduler = word(scheduler);
    let why = format!(
        "these times are those of TZ={zone}, and {scheduler} goes by the machine's clock; `env -u TZ triplock …` shows its own"
    );
    Some(why).filter(|_| !is_machines)
}

/// A scheduler has nothing of this shell's command line and environment.
fn other_store(global: &Global) -> Result<Option<String>> {
    let (choice, named) = super::store::choice(global)?;
    let Some(url) = choice.into_url().filter(|_| !named.is_by_file()) else { return Ok(None) };
    Ok(Some(format!(
        "{named} names {url}, which the scheduler knows nothing of; name it for the whole host, with `store = \"{url}\"` in \
         /etc/triplock/config.toml"
    )))
}

/// Who only looks keeps nobody out.
fn turn(is_dry: bool) -> Option<Turn> {
    let home = Account::own().filter(|_| !is_dry)?.home;
    Turn::take(&home)
}

fn runtime(environment: &Environment) -> Option<&Path> {
    environment.xdg_runtime_dir.as_deref().map(Path::new)
}

fn units(environment: &Environment, scope: Scope) -> Result<PathBuf> {
    // (The user's place for configuration, whosever.)
    let user = Places::of(environment)?.user;
    install::units(scope, user.as_deref().and_then(Path::parent))
}

/// The state directory in force for the scheduler: for the machine's, it is root's, whoever looks at what would be written.
fn state(global: &Global, environment: &Environment, scope: Scope) -> Result<PathBuf> {
    let is_roots = scope == Scope::System && !rustix::process::geteuid().is_root();
    let path = match &global.state_dir {
        None if is_roots => {
            let machine =
                Environment { xdg_state_home: None, xdg_config_home: None, home: None, ..environment.clone() };
            match StateDir::default_path(&machine) {
                Err(Error::Usage(_)) => PathBuf::from("/var/lib/triplock"),
                path => path?,
            }
        }
        _ => state_path(global)?,
    };
    std::path::absolute(&path).map_err(|e| Error::io("resolve", path, e))
}

/// The file to name to the scheduler, when it is not one that triplock finds for every user.
fn config(file: &Path, environment: &Environment) -> Result<Option<PathBuf>> {
    let machine = Places::of(environment)?.machine.map(|place| place.join("jobs.d"));
    let file = std::path::absolute(file).map_err(|e| Error::io("resolve", file, e))?;
    Ok(Some(file).filter(|file| file.parent() != machine.as_deref()))
}

fn files(plan: &Plan, with_texts: bool) -> Vec<File<'_>> {
    let mut files = Vec::new();
    for change in plan.changes.iter().filter(|change| change.word() != "missing") {
        let text = change.new.as_deref().filter(|_| with_texts);
        files.push(File { path: &change.path, change: change.word(), text });
    }
    files
}

fn see(scheduler: Scheduler, scope: Scope, job: &Name) -> Vec<String> {
    let status = format!("triplock status {job}");
    match (scheduler, scope) {
        (Scheduler::Systemd, Scope::System) => vec![format!("systemctl list-timers triplock@{job}.timer"), status],
        (Scheduler::Systemd, Scope::User) => {
            vec![format!("systemctl --user list-timers triplock@{job}.timer"), status]
        }
        (Scheduler::Cron, _) => vec![status],
    }
}

fn tell(output: &Output, report: &Report) -> anyhow::Result<ExitCode> {
    let mut to = io::BufWriter::new(io::stdout().lock());
    let printed = output.result(&mut to, report, || text(report)).and_then(|()| to.flush());
    if !output.json {
        for warning in &report.warnings {
            output.warning(&format!("{}: {warning}", report.job));
        }
    }
    Ok(written(printed, ExitCode::Success)?)
}

fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    if report.files.is_empty() {
        let whose = if report.scope == Scope::System { "--system" } else { "--user" };
        lines.push(format!("nothing of job {} is installed with {} ({whose})", report.job, report.scheduler));
    }
    for file in &report.files {
        let path = file.path.display();
        lines.push(match (file.text, file.change) {
            // As `systemctl cat` shows files.
            (Some(text), _) => format!("# {path}\n{text}"),
            (None, change) if report.dry_run => format!("would be {change}: {path}"),
            (None, change) => format!("{change}: {path}"),
        });
    }
    if let Some(times) = report.times {
        lines.extend(times.next.first().map(|_| "next times:".to_owned()));
        lines.extend(times.next.iter().map(moment));
        lines.extend(times.clock_changes.iter().map(clock_change));
        lines.push(format!("to see it: {}", report.see.join("; ")));
    }
    lines.join("\n")
}

fn moment(moment: &Moment) -> String {
    let shown = moment.time.with_timezone(&Local).format("%a %Y-%m-%d %H:%M:%S %:z");
    let note = if moment.shown_twice { "  (the clock shows this time twice)" } else { "" };
    format!("  {shown}{note}")
}

fn clock_change(change: &ClockChange) -> String {
    let ClockChange { kind, expression, from, to, zone, effect } = change;
    let zone = zone.as_ref().map_or_else(String::new, |zone| format!(" in {zone}"));
    let (from, to) = (from.format("%Y-%m-%d %H:%M"), to.format("%H:%M"));
    let what = match kind {
        ChangeKind::Gap => "is skipped: the clock is put forward",
        ChangeKind::Repeat => "comes twice: the clock is put back",
    };
    format!("{from} to {to}{zone} {what}; {expression:?}: {effect}")
}
