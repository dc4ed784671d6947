//! `logs`.

use clap::Args;

use crate::name::Name;

#[derive(Debug, Args)]
#[command(
    after_help = "A log is the stdout and stderr of a run with --output capture or on-failure, byte for byte. Where \
it was over its limit, a line `[triplock: N bytes cut here]` stands for its middle."
)]
pub(crate) struct Logs {
    /// The job.
    pub(crate) job: Name,
    /// The run, by its number [default: the newest that has a log].
    #[arg(allow_negative_numbers = true)]
    pub(crate) run: Option<u64>,
    /// Go on printing until the run is over.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Which runs have logs, and how large they are (JSON Lines with --json).
    #[arg(long, conflicts_with_all = ["run", "follow"])]
    pub(crate) list: bool,
}
