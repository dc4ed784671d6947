//! `update`: a file through a filter, one process at a time.

use super::{hint, server, state_path};
use crate::{
    cli::{self, Global},
    dir::StateDir,
    error::Result,
    exit::ExitCode,
    lock::{Holder, Wait},
    output::{self, Failure, Output},
    process,
    stderr::{self, Priority},
    update::{FilterEnd, Update, Updated},
};

/// Does it; the exit code may be the filter's.
pub(super) fn update(output: &Output, global: &Global, args: cli::Update) -> u8 {
    let cli::Update { file, create, nonblock, wait, conflict_exit_code, time_limit, kill_after, filter } = args;
    let wait = match wait {
        _ if nonblock => Wait::No,
        Some(wait) => Wait::For(wait),
        None => Wait::Forever,
    };
    let shown = file.display().to_string();
    let update = Update { file, filter, create, wait, time_limit, kill_after };
    let announce = |holder: Option<&Holder>| {
        if output.announce_waits {
            stderr::line(Priority::Info, format_args!("triplock: waiting for {shown}{}", hint(holder)));
        }
    };
    let say = |error: &str, exit_code: u8, message: String, holder: Option<Option<&Holder>>| {
        let mut details = serde_json::Map::new();
        details.insert("path".to_owned(), shown.as_str().into());
        if let Some(holder) = holder {
            details.insert("holder".to_owned(), serde_json::to_value(holder).unwrap_or_default());
        }
        output.failure(&Failure { error, message, exit_code, details });
        exit_code
    };
    let command = || update.filter[0].to_string_lossy();
    let not_run = ExitCode::NotRun.code();
    let updated = server(global)
        .and_then(|server| state(global).and_then(|state| update.run(&state, server.as_ref(), &announce)));
    match updated {
        Ok(Updated::Replaced) => 0,
        Ok(Updated::Busy(holder)) => {
            let message = format!("{shown} is being updated, try later{}", hint(holder.as_ref()));
            say("busy", conflict_exit_code, message, Some(holder.as_ref()))
        }
        Ok(Updated::Nested) => {
            let message = format!("{shown}: this process belongs to an update of it; waiting for that would never end");
            say("nested", not_run, message, None)
        }
        Ok(Updated::Failed(FilterEnd::NotExecutable(why))) => {
            let code = ExitCode::NotExecutable.code();
            say("not_executable", code, format!("cannot execute {}: {why}", command()), None)
        }
        Ok(Updated::Failed(FilterEnd::NotFound)) => {
            let code = ExitCode::NoSuchCommand.code();
            say("no_such_command", code, format!("{}: {}", command(), process::why_missing(&update.filter)), None)
        }
        Ok(Updated::Failed(end)) => {
            output.message(&format!("{shown} is unchanged: the filter {end}"));
            end.exit_code()
        }
        Err(error) => output::report_as(output, &error.into(), ExitCode::NotRun),
    }
}

/// The umask stays: the filter inherits it, and it shapes the file that `--create` makes. (What is made in the state
/// directory gets its mode all the same.)
fn state(global: &Global) -> Result<StateDir> {
    StateDir::open(&state_path(global)?, global.allow_network_fs)
}
