//! Whether everything that starts a job, changes a trip or updates a file looks for its lock in one directory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    findings::{Findings, Problem, Trouble},
    machine::Machine,
    start::{Start, Subject},
    stores::FILES,
};
use crate::{dir::FileId, error::Error};

/// Somebody who locks, and where.
struct Place<'a> {
    /// `None`: this shell.
    start: Option<&'a Start>,
    dir: &'a Path,
}

/// Compares the state directories of whatever is locked.
pub(super) fn examine(machine: &Machine, starts: &[Start], own: Option<&Path>, findings: &mut Findings) {
    let mut locked: BTreeMap<String, Vec<(&Start, PathBuf)>> = BTreeMap::new();
    let mut said = Vec::new();
    for start in starts {
        let Some(what) = start.asked.subject.locked() else { continue };
        if start.store(machine).is_some_and(|store| store != FILES) {
            continue;
        }
        match start.state_dir(machine) {
            Some(Ok(dir)) => locked.entry(what).or_default().push((start, dir)),
            Some(Err(error)) => {
                let trouble = no_directory(start, &error);
                if !said.contains(&trouble.message) {
                    said.push(trouble.message.clone());
                    findings.problem(trouble);
                }
            }
            None => {}
        }
    }
    for (what, places) in locked {
        let mut distinct: Vec<Place> = Vec::new();
        for (start, dir) in &places {
            if !distinct.iter().any(|place| is_same(machine, place.dir, dir)) {
                distinct.push(Place { start: Some(start), dir });
            }
        }
        if distinct.len() > 1 {
            findings.problem(two_locks(machine, &what, &distinct));
            continue;
        }
        let Some(own) = own else { continue };
        let (start, dir) = &places[0];
        if is_same(machine, dir, own) {
            continue;
        }
        // A job of another user is no business of this shell, unless it has run here as well.
        let is_mine = start.user == machine.me || has_run(own, &start.asked.subject);
        if is_mine {
            findings.problem(two_locks(
                machine,
                &what,
                &[Place { start: Some(start), dir }, Place { start: None, dir: own }],
            ));
        }
    }
}

fn two_locks(machine: &Machine, what: &str, places: &[Place]) -> Problem {
    let mut said: Vec<String> = places
        .iter()
        .map(|place| match place.start {
            Some(start) => format!("{} uses {}", start.at, place.dir.display()),
            None => format!("this shell uses {}", place.dir.display()),
        })
        .collect();
    let last = said.pop().unwrap_or_default();
    let shared = Path::new("/var/lib/triplock");
    let best = places.iter().map(|place| place.dir).find(|dir| *dir == shared).unwrap_or(places[0].dir);
    let number = if places.len() == 2 { "two locks".to_owned() } else { format!("{} locks", places.len()) };
    let all = if places.len() == 2 { "both" } else { "all of them" };
    let is_written = |start: &Start| start.installed.is_some() || start.asked.state_dir.is_some();
    let fix = if places.iter().any(|place| place.start.is_some_and(is_written)) {
        // Where the command line names one, the variable is not asked.
        let others = places.iter().filter(|place| place.dir != best);
        others.map(|place| fix(machine, place.start, best)).collect::<Vec<_>>().join(", and ")
    } else {
        format!("set TRIPLOCK_STATE_DIR={} in {all}", best.display())
    };
    let message = format!("{what}: {} and {last}: {number}; {fix}", said.join(", "));
    let of = |place: &Place| match place.start {
        Some(start) => json!({
            "at": start.at.to_string(),
            "user": start.user.name,
            "state_dir": place.dir.to_string_lossy(),
        }),
        None => json!({ "at": "this shell", "state_dir": place.dir.to_string_lossy() }),
    };
    let trouble = Trouble::new("two_locks", message).with("lock", what);
    trouble.with("places", places.iter().map(of).collect::<Vec<_>>()).into()
}

/// How that start comes to use that directory; `None` is this shell.
fn fix(machine: &Machine, start: Option<&Start>, best: &Path) -> String {
    let shown = best.display();
    let Some(start) = start else { return format!("set TRIPLOCK_STATE_DIR={shown} in this shell") };
    match &start.installed {
        Some(installed) => format!("install it again: {}", installed.again(machine, start, Some(best))),
        None if start.asked.state_dir.is_some() => format!("change --state-dir to {shown} in {}", start.at),
        None => format!("set TRIPLOCK_STATE_DIR={shown} in {}", start.at),
    }
}

/// It would fail before it locked anything.
fn no_directory(start: &Start, error: &Error) -> Trouble {
    let message = match error {
        Error::Usage(_) if start.get("HOME").is_none() => format!(
            "{}: without HOME there is no state directory for user {}; set TRIPLOCK_STATE_DIR there",
            start.at, start.user.name
        ),
        error => format!("{}: no state directory for user {}: {error}", start.at, start.user.name),
    };
    super::crontabs::trouble("no_state_dir", message, &start.at)
}

/// Whether two paths mean one directory. What is not there yet is what it is called.
fn is_same(machine: &Machine, one: &Path, other: &Path) -> bool {
    let id = |path: &Path| -> Option<FileId> { machine.id(path) };
    one == other || id(one).is_some_and(|one| Some(one) == id(other))
}

fn has_run(own: &Path, subject: &Subject) -> bool {
    let (directory, name) = match subject {
        Subject::Run { job, .. } | Subject::Job(job) | Subject::LockFile { job: Some(job), .. } => ("jobs", job),
        Subject::Trip(trip) => ("trips", trip),
        _ => return false,
    };
    own.join(directory).join(format!("{name}.jsonl")).exists()
}
