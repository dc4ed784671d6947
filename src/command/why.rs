//! `status --why NAME`: from the wrapper to the process that really keeps the lock's descriptor.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{
    server, state_path,
    status::command,
    table::Table,
    text,
    unknown::{NeverRun, judge, never_run},
    written,
};
use crate::{
    cli,
    clock::{Clock as _, SystemClock},
    dir::{Dir, FileId, StateDir},
    error::Result,
    exit::ExitCode,
    job::{JobFiles, Look, Presence, RunId, Running, ServerJobs, optional_time},
    lock::Holder,
    name::Name,
    output::Output,
    process::{
        self, ProcessInfo,
        locks::{self, Keeper},
    },
    store::{LeaseView, Resource, StoreUrl},
};

/// One lock, and who is behind it.
#[derive(Debug, Serialize)]
struct Why {
    /// `job`, `trip` or `lock`.
    kind: &'static str,
    name: Name,
    /// The lock file; of a run of `flock --job`, the file that it locked has no name here.
    #[serde(skip_serializing_if = "Option::is_none")]
    lock: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u32>,
    /// `free`, `held`, or `unknown` when the run is in another pid namespace.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<RunId>,
    #[serde(serialize_with = "optional_time::serialize")]
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<DateTime<Utc>>,
    processes: Vec<Process>,
}

/// One process on the way to the lock.
#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    parent: Option<u32>,
    /// `wrapper`, `command`, `descendant`, or `other`: not below the wrapper (any more).
    role: &'static str,
    command: Option<String>,
    #[serde(serialize_with = "optional_time::serialize")]
    since: Option<DateTime<Utc>>,
    /// Whether it has the lock's descriptor; `null` when this user may not look.
    keeps: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    descriptors: Vec<u32>,
}

/// Prints every lock of that name.
pub(super) fn why(output: &Output, global: &cli::Global, name: &Name) -> anyhow::Result<ExitCode> {
    if let Some(url) = server(global)? {
        return leases(output, &url, name);
    }
    let state = StateDir::open_existing(&state_path(global)?, global.allow_network_fs)?;
    let mut found = Vec::new();
    let mut known = Vec::new();
    if let Some(dir) = state.as_ref().map(JobFiles::directory).transpose()?.flatten() {
        known = JobFiles::all(&dir)?.into_iter().map(|(files, _)| files.job).collect();
        if known.contains(name) {
            of_job(&JobFiles::new(dir, name.clone()), &mut found)?;
        }
    }
    for (kind, directory) in [("trip", "trips"), ("lock", "locks")] {
        let Some(dir) = state.as_ref().map(|state| state.subdirectory(directory)).transpose()?.flatten() else {
            continue;
        };
        if let Some(lock) = of_lock(kind, &dir, name)? {
            found.push(lock);
        }
    }
    if found.is_empty() {
        let NeverRun = judge(name, &known)?;
        output.message(&never_run(name));
        found.push(Why::of_nothing(name));
    }
    let mut to = io::BufWriter::new(io::stdout().lock());
    let mut print = || {
        for why in &found {
            if output.json {
                output.result(&mut to, why, || "")?;
            } else if !output.quiet {
                why.print(&mut to, output.in_color())?;
            }
        }
        to.flush()
    };
    let printed = print();
    Ok(written(printed, ExitCode::Success)?)
}

/// A lease on a server, as `status --why --json` prints it.
#[derive(Debug, Serialize)]
struct LeaseWhy {
    /// `job` or `lock`.
    kind: &'static str,
    name: Name,
    state: &'static str,
    slot: u32,
    /// Seconds until it ends, unless it is renewed.
    ends_in: f64,
    holder: Holder,
}

/// Prints every lease of that name.
fn leases(output: &Output, url: &StoreUrl, name: &Name) -> anyhow::Result<ExitCode> {
    let server = ServerJobs::connect(url)?;
    let why = |view: LeaseView| {
        let kind = match &view.resource {
            Resource::Job(job) if job == name => "job",
            Resource::Lock(lock) if lock == name => "lock",
            _ => return None,
        };
        let LeaseView { held, .. } = view;
        let ends_in = held.left.as_secs_f64();
        Some(LeaseWhy { kind, name: name.clone(), state: "held", slot: held.slot, ends_in, holder: held.holder })
    };
    let found: Vec<_> = server.leases()?.into_iter().filter_map(why).collect();
    if found.is_empty() {
        if server.job(name)?.is_none() {
            let NeverRun = judge(name, &[])?;
        }
        output.message(&format!("job {name}: nobody holds a lease"));
        return Ok(ExitCode::Success);
    }
    let mut to = io::BufWriter::new(io::stdout().lock());
    let printed = found.iter().try_for_each(|why| {
        output.result(&mut to, why, || {
            let LeaseWhy { kind, name, slot, ends_in, holder, .. } = why;
            let Holder { pid, host, since, command, fence } = holder;
            let since = text::local(*since);
            format!(
                "{kind} {name}, slot {slot}: leased by {host} since {since}, pid {pid}, fence {fence}: {command}; \
                 ends in {} unless renewed",
                text::span(*ends_in)
            )
        })
    });
    Ok(written(printed.and_then(|()| to.flush()), ExitCode::Success)?)
}

fn of_job(files: &JobFiles, found: &mut Vec<Why>) -> Result<()> {
    let (slots, totals) = (files.slots()?, files.totals()?.unwrap_or_default());
    let look = Look::now()?;
    let (_, slots) = look.slots(files, totals, &slots)?;
    let several = slots.len() > 1;
    for slot in slots {
        let (state, run, keepers) = match slot.presence {
            Presence::Free | Presence::Lost(_) => ("free", None, Vec::new()),
            Presence::Unknown(run) => ("unknown", Some(run), Vec::new()),
            Presence::Running(run) => {
                let keepers = slot.file.map(|file| look.keepers(file)).transpose()?.flatten();
                ("held", Some(run), keepers.unwrap_or_default())
            }
            Presence::Orphaned(run, keepers) => ("held", Some(run), keepers),
            Presence::Kept(keepers) => ("held", None, keepers),
            // Of files nobody has a lease.
            Presence::Leased(run, _) => ("held", run, Vec::new()),
        };
        let own_file = run.as_ref().is_none_or(|run| run.file.is_none());
        let path = files.dir.path_of(&files.lock(slot.number));
        found.push(Why {
            kind: "job",
            name: files.job.clone(),
            lock: own_file.then(|| path.to_string_lossy().into_owned()),
            slot: several.then_some(slot.number),
            state,
            run: run.as_ref().map(|run| run.run),
            since: run.as_ref().map(|run| run.start),
            processes: if state == "held" { chain(run.as_ref(), slot.file, &keepers) } else { Vec::new() },
        });
    }
    Ok(())
}

fn of_lock(kind: &'static str, dir: &Dir, name: &Name) -> Result<Option<Why>> {
    let file = format!("{name}.lock");
    let Some(stat) = dir.stat(&file)? else { return Ok(None) };
    let keepers = Look::now()?.keepers(stat.id)?;
    Ok(Some(Why {
        kind,
        name: name.clone(),
        lock: Some(dir.path_of(&file).to_string_lossy().into_owned()),
        slot: None,
        state: if keepers.is_some() { "held" } else { "free" },
        run: None,
        since: None,
        processes: keepers.map(|keepers| chain(None, Some(stat.id), &keepers)).unwrap_or_default(),
    }))
}

/// The wrapper, its children, whoever stands between it and a keeper, and the keepers, in the order of the tree.
fn chain(run: Option<&Running>, file: Option<FileId>, keepers: &[Keeper]) -> Vec<Process> {
    let keeps = |pid: u32| keepers.iter().any(|keeper| keeper.pid == pid);
    let wrapper = run.map(|run| run.pid).filter(|pid| {
        // The number may mean a stranger by now: the wrapper has the lock.
        let asked = file.map_or(Ok(false), |file| locks::keeps(*pid, file));
        asked.unwrap_or_else(|e| e.kind() == io::ErrorKind::PermissionDenied)
    });
    let below = wrapper.and_then(|pid| process::descendants(pid).ok()).unwrap_or_default();
    let mut shown: Vec<(u32, &'static str)> = wrapper.map(|pid| (pid, "wrapper")).into_iter().collect();
    for info in &below {
        let is_child = Some(info.parent) == wrapper;
        if is_child
            || keeps(info.pid)
            || below.iter().any(|other| keeps(other.pid) && is_below(other.pid, info.pid, &below))
        {
            shown.push((info.pid, if is_child { "command" } else { "descendant" }));
        }
    }
    for keeper in keepers {
        if !shown.iter().any(|(pid, _)| *pid == keeper.pid) {
            shown.push((keeper.pid, "other"));
        }
    }
    shown.into_iter().map(|(pid, role)| Process::new(pid, role, file, keepers)).collect()
}

fn is_below(mut pid: u32, above: u32, all: &[ProcessInfo]) -> bool {
    while let Some(info) = all.iter().find(|info| info.pid == pid) {
        if info.parent == above {
            return true;
        }
        pid = info.parent;
    }
    false
}

impl Process {
    fn new(pid: u32, role: &'static str, file: Option<FileId>, keepers: &[Keeper]) -> Self {
        let descriptors: Vec<_> = keepers.iter().filter(|keeper| keeper.pid == pid).map(|keeper| keeper.fd).collect();
        let keeps = match file {
            _ if !descriptors.is_empty() => Some(true),
            Some(file) => locks::keeps(pid, file).ok(),
            None => None,
        };
        let parent = process::info(pid).map(|info| info.parent);
        Self { pid, parent, role, command: command(pid), since: started(pid), keeps, descriptors }
    }
}

impl Why {
    /// Of a job that has no lock file yet.
    fn of_nothing(job: &Name) -> Self {
        let (lock, slot, run, since, processes) = (None, None, None, None, Vec::new());
        Self { kind: "job", name: job.clone(), lock, slot, state: "free", run, since, processes }
    }

    fn print(&self, to: &mut impl io::Write, in_color: bool) -> io::Result<()> {
        let mut head = format!("{} {}", self.kind, self.name);
        if let Some(slot) = self.slot {
            let _ = write!(head, ", slot {slot}");
        }
        head.push_str(match self.state {
            "free" => ": nobody holds the lock",
            "unknown" => ": started in another pid namespace, whose processes cannot be told from here",
            _ if self.processes.is_empty() => {
                ": held by a process that this user may not look into; ask as root or as its user"
            }
            _ => ": held",
        });
        if let Some(run) = self.run {
            let _ = write!(head, ", run {run}");
        }
        if let Some(since) = self.since {
            let _ = write!(head, " since {}", text::local(since));
        }
        writeln!(to, "{head}")?;
        if self.processes.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(["", "PID:", "ROLE", "SINCE", "LOCK", "COMMAND"]);
        for process in &self.processes {
            let descriptors: Vec<_> = process.descriptors.iter().map(|fd| format!("fd {fd}")).collect();
            table.push([
                " ".into(),
                process.pid.to_string().into(),
                process.role.into(),
                process.since.map(text::local).unwrap_or_default().into(),
                match process.keeps {
                    Some(true) => descriptors.join(", ").into(),
                    Some(false) => "not kept".into(),
                    None => "may not look".into(),
                },
                process.command.clone().unwrap_or_default().into(),
            ]);
        }
        table.print(to, in_color)
    }
}

/// When a process started.
pub(super) fn started(pid: u32) -> Option<DateTime<Utc>> {
    SystemClock.now().checked_sub_signed(TimeDelta::from_std(process::info(pid)?.age()).ok()?)
}
