//! Whether everything that starts a job, changes a trip or updates a file uses one store: a lock on a server keeps nobody
//! out who locks a file.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    findings::{Findings, Trouble},
    machine::Machine,
    start::Start,
};

/// Compares the stores of whatever is locked. `own`: this shell's, if it can be told.
pub(super) fn examine(machine: &Machine, starts: &[Start], own: Option<&str>, findings: &mut Findings) {
    let mut locked: BTreeMap<String, Vec<(&Start, String)>> = BTreeMap::new();
    for start in starts {
        if let (Some(what), Some(store)) = (start.asked.subject.locked(), start.store(machine)) {
            locked.entry(what).or_default().push((start, store));
        }
    }
    for (what, uses) in locked {
        let mut places: Vec<(Option<&Start>, &str)> = Vec::new();
        for (start, store) in &uses {
            if !places.iter().any(|(_, other)| other == store) {
                places.push((Some(start), store));
            }
        }
        // What another user's command locks is no business of this shell.
        let is_mine = uses.iter().any(|(start, _)| start.user == machine.me);
        if let Some(own) = own.filter(|own| places.len() == 1 && is_mine && places[0].1 != *own) {
            places.push((None, own));
        }
        if places.len() > 1 {
            findings.problem(two_stores(&what, &places));
        }
    }
}

fn two_stores(what: &str, places: &[(Option<&Start>, &str)]) -> Trouble {
    let at = |start: Option<&Start>| start.map_or_else(|| "this shell".to_owned(), |start| start.at.to_string());
    let mut said: Vec<_> = places.iter().map(|(start, store)| format!("{} uses {store}", at(*start))).collect();
    let last = said.pop().unwrap_or_default();
    let best = places.iter().map(|(_, store)| *store).find(|store| *store != FILES).unwrap_or(FILES);
    let message = format!(
        "{what}: {} and {last}: locks that do not meet; name one store for all, such as with store = \"{best}\" in \
         /etc/triplock/config.toml",
        said.join(", "),
    );
    let of = |(start, store): &(Option<&Start>, &str)| match start {
        Some(start) => json!({ "at": at(Some(*start)), "user": start.user.name, "store": store }),
        None => json!({ "at": "this shell", "store": store }),
    };
    let trouble = Trouble::new("two_stores", message).with("lock", what);
    trouble.with("places", places.iter().map(of).collect::<Vec<_>>())
}

/// The word for the state directory as a store.
pub(super) const FILES: &str = "files";
