//! `logs`.

use clap::Args;

use super::queue::Target;
use crate::{
    job::{LaneRun, RunId},
    name::Name,
};

#[derive(Debug, Args)]
#[command(
    after_help = "A log is the stdout and stderr of a run with --output capture or on-failure, byte for byte. Where \
it was over its limit, a line `[triplock: N bytes cut here]` stands for its middle."
)]
pub(crate) struct Logs {
    /// The job, or a queued run as `queue add` printed it: LANE/RUN.
    #[arg(value_name = "JOB")]
    pub(crate) of: Target,
    /// The run, by its number [default: the newest that has a log].
    #[arg(allow_negative_numbers = true, value_parser = number)]
    pub(crate) run: Option<u64>,
    /// Go on printing until the run is over; one that waits in its lane is waited for.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Which runs have logs, and how large they are (JSON Lines with --json).
    #[arg(long, conflicts_with_all = ["run", "follow"])]
    pub(crate) list: bool,
}

fn number(given: &str) -> Result<u64, String> {
    given.parse().map_err(|_| "give a run's number, as `triplock history` shows it".to_owned())
}

impl Logs {
    /// The job.
    pub(crate) fn job(&self) -> &Name {
        let (Target::Lane(job) | Target::Run(LaneRun { lane: job, .. })) = &self.of;
        job
    }

    /// The run that is named, if one is: the number says more than the lane.
    pub(crate) fn run(&self) -> Option<RunId> {
        match &self.of {
            Target::Run(run) => Some(run.run),
            Target::Lane(_) => self.run.map(RunId),
        }
    }
}
