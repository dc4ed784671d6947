//! What the user of a job cannot reach: triplock, the job's program, its file, the state directory. `install` warns of the
//! same, once; a mode is changed later.

use std::path::{Path, PathBuf};

use super::{
    findings::{Findings, Trouble},
    machine::Machine,
    start::{Start, Subject},
};
use crate::{
    install::{self, Account, Ground, Scope},
    job::definition::Definition,
};

pub(super) fn examine(
    machine: &Machine,
    starts: &[Start],
    own: &[Definition],
    state: Option<&Path>,
    findings: &mut Findings,
) {
    // The files of another tree have other owners.
    if !machine.is_this_one() {
        return;
    }
    for definition in own {
        let Some(user) = &definition.schedule.user else { continue };
        // That there is none is said already.
        let Some(account) = Account::of(&user.text) else { continue };
        let runs_it =
            |start: &&Start| matches!(&start.asked.subject, Subject::Run { job, .. } if *job == definition.name);
        let start = starts.iter().find(runs_it);
        let named = start.map(|start| PathBuf::from(&start.program)).filter(|program| program.is_absolute());
        let started_as = std::env::args_os().next();
        let running = || install::binary_path(started_as.as_deref(), std::env::var_os("PATH").as_ref()).ok();
        let of_start = start.and_then(|start| start.state_dir(machine)).and_then(Result::ok);
        let (Some(program), Some(state)) =
            (named.or_else(running), of_start.or_else(|| std::path::absolute(state?).ok()))
        else {
            continue;
        };
        let ground = Ground {
            definition,
            program,
            state,
            config: None,
            scope: Scope::System,
            user: Some(account.clone()),
            is_hardened: false,
        };
        let Definition { name, path, .. } = definition;
        for doubt in install::doubts(&ground, &account) {
            let message = format!("{}: line {}: job {name}: {doubt}", path.display(), user.line);
            let trouble = Trouble::new("user_cannot", message).path(path).with("line", user.line);
            findings.problem(trouble.with("job", name.as_str()).with("user", account.name.as_str()));
        }
    }
}
