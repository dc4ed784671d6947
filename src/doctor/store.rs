//! The store, if it is a server: which, who says so, whether it answers, and what it promises.

use serde::Serialize;

use super::findings::{Findings, Trouble};
use crate::store::{PATIENCE, StoreUrl, connect};

/// The store that a command of this shell would use.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) url: StoreUrl,
    /// Who names it: an option, a variable, a file and its line.
    pub(crate) named_by: String,
    /// Where its password comes from.
    pub(crate) password_from: Option<String>,
    /// A file with passwords that was passed over, and what to do.
    pub(crate) passed_over: Option<String>,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Looked {
    /// Its URL, without a password.
    pub(crate) store: String,
    pub(crate) named_by: String,
    pub(crate) password_from: Option<String>,
    /// What it said; `None` when it did not answer.
    #[serde(flatten)]
    pub(crate) said: Option<Said>,
}

/// What a server says of itself.
#[derive(Debug, Serialize)]
pub(crate) struct Said {
    pub(crate) product: String,
    pub(crate) encrypted: bool,
    pub(crate) replica: bool,
    pub(crate) durability: Vec<String>,
}

pub(super) fn examine(store: Store, findings: &mut Findings) {
    let shown = store.url.to_string();
    if let Some(why) = store.passed_over {
        findings.problem(Trouble::new("open_password_file", why).with("store", &*shown));
    }
    if let Some(warning) = store.url.warning() {
        // Somebody asked for it.
        findings.note(warning);
    }
    // The same as any other command would be told.
    let facts = connect(&store.url, PATIENCE).and_then(|mut session| {
        let facts = session.facts()?;
        // Whether we may look at what is there; a look makes what is missing.
        session.trips()?;
        session.jobs()?;
        Ok(facts)
    });
    let said = findings.keep(facts).map(|facts| {
        for problem in &facts.problems {
            let trouble = Trouble::new("unfit_store", format!("{shown}: {problem}"));
            findings.problem(trouble.with("store", &*shown));
        }
        Said {
            product: facts.product,
            encrypted: facts.is_encrypted,
            replica: facts.is_replica,
            durability: facts.durability,
        }
    });
    findings.looked_at_store =
        Some(Looked { store: shown, named_by: store.named_by, password_from: store.password_from, said });
}
