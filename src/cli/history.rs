//! The words of `history`.

use std::time::Duration;

use clap::Args;

use super::duration;
use crate::name::Name;

#[derive(Debug, Args)]
#[command(
    after_help = "The newest comes last, as in a log. A run is one line, whatever its attempts; so is a run that \
was asked for and did not happen. Takes no lock."
)]
pub(crate) struct History {
    /// The job [default: all jobs, by time].
    pub(crate) job: Option<Name>,
    /// Only what went wrong: `failed`, `timed_out`, `lost`, `refused`, `not_started`, `lease_lost`,
    /// `dependency_failed`.
    #[arg(long)]
    pub(crate) failed: bool,
    /// Only what was not over that long ago: seconds, or 90s 5m 1h 7d.
    #[arg(long, value_name = "DURATION", value_parser = duration, allow_negative_numbers = true)]
    pub(crate) since: Option<Duration>,
    /// At most so many, the newest; or `all` [default: 50, with --since all].
    #[arg(short = 'n', long, value_name = "N", value_parser = lines, allow_negative_numbers = true)]
    pub(crate) lines: Option<usize>,
}

impl History {
    /// How many runs are shown at most.
    pub(crate) fn most(&self) -> usize {
        self.lines.unwrap_or(if self.since.is_some() { usize::MAX } else { 50 })
    }
}

fn lines(given: &str) -> Result<usize, String> {
    if given == "all" {
        return Ok(usize::MAX);
    }
    given.parse().ok().filter(|lines| *lines > 0).ok_or_else(|| "give a whole number from 1, or all".to_owned())
}
