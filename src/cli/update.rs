//! `update`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueHint, value_parser};

use super::duration;
use crate::job::settings;

#[derive(Debug, Args)]
#[command(after_help = "The filter reads FILE's content from its stdin; what it prints to its stdout becomes FILE's \
content, in one step, if it exits 0. Otherwise FILE stays as it was. Updates of one FILE take turns.\n\
Exit code: the filter's, 128+N if signal N ended it, 124 at the time limit (137 if it took KILL), 75 busy, \
126/127 cannot be executed / not found, 125 triplock failed or refused; FILE is replaced only with 0.")]
pub(crate) struct Update {
    /// A regular file with one name; a symbolic link is refused.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// FILE may be missing: then the filter reads nothing, and FILE is made.
    #[arg(long)]
    pub(crate) create: bool,
    /// Do not wait while somebody else updates FILE: busy at once.
    #[arg(short = 'n', long, conflicts_with = "wait")]
    pub(crate) nonblock: bool,
    /// Wait at most this long: seconds, or 90s 5m 1h 1d [default: for ever].
    #[arg(short = 'w', long, value_name = "DURATION", value_parser = duration, allow_negative_numbers = true)]
    pub(crate) wait: Option<Duration>,
    /// The exit code of "busy".
    #[arg(short = 'E', long, value_name = "N", default_value = "75", value_parser = value_parser!(u8))]
    #[arg(allow_negative_numbers = true)]
    pub(crate) conflict_exit_code: u8,
    /// End the filter after this time.
    #[arg(long, value_name = "DURATION", value_parser = settings::time, allow_negative_numbers = true)]
    pub(crate) time_limit: Option<Duration>,
    /// How long it has between TERM and KILL then; 0 sends no KILL.
    #[arg(short, long, value_name = "DURATION", default_value = "10", value_parser = duration)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) kill_after: Duration,
    /// The command that turns the old content into the new one.
    #[arg(last = true, required = true, value_name = "FILTER")]
    pub(crate) filter: Vec<OsString>,
}
