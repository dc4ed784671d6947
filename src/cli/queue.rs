//! `queue`.

use std::{ffi::OsString, str::FromStr};

use clap::{Args, Subcommand, ValueHint};

use super::run::CourseOptions;
use crate::{
    job::{LaneRun, settings::Settings},
    name::Name,
};

// Deferred: only the subcommand that was named is built.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Queue {
    /// Have a command run in the background once those before it in its lane are over; print its run id.
    Add(Box<QueueAdd>),
    /// What runs in a lane, and the queued runs that wait, in their order; takes no lock.
    List {
        /// The lane [default: all].
        lane: Option<Name>,
    },
    /// Sleep until runs are over; exit as they did.
    #[command(
        after_help = "Exit code: the run's own, 128+N if signal N ended it; 124 time limit, 126 not executable, 127 not \
found, 125 when it was never run (cancelled, or a run before it failed), has lost its process, or was lost. Of several, the first that is not 0."
    )]
    Wait {
        /// A run as `queue add` printed it, or a lane: all that runs and waits there now.
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<Target>,
    },
    /// Take waiting runs out of their lane; `triplock stop` ends one that runs.
    Cancel {
        /// A run as `queue add` printed it, or a lane: all that waits there.
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<Target>,
    },
    /// Queue again what is over, as a new run; print its run id.
    Retry {
        /// The run, as `queue add` printed it.
        run: LaneRun,
    },
    /// Start no queued run of a lane until it is resumed by its name, also after a reboot; what runs goes on.
    Pause {
        /// The lane.
        lane: Name,
    },
    /// Start a process for each waiting run that has none (after a reboot, or a kill), and say what was cut off; of a lane that is
    /// named, end the pause.
    #[command(
        after_help = "Runs keep their places. To have it done at each start of the machine: `@reboot triplock queue resume` \
in the crontab."
    )]
    Resume {
        /// The lane [default: all].
        lane: Option<Name>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct QueuedProcess {
    /// The run.
    pub(crate) run: LaneRun,
    /// The descriptor of its lane.
    pub(crate) descriptor: i32,
    /// For people who look at the processes: what is run is in the request.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(override_usage = "triplock queue add <LANE> [OPTIONS] [--] <COMMAND> [ARGS]...")]
#[command(
    after_help = "A lane is the line in front of the job of that name: it needs no making, and `run`, `stop`, `status`, \
`history` and `logs` know it. The command runs as it would here and now: in this directory, with this environment. It keeps \
nothing of this terminal; what it prints is in `triplock logs`. Its id is printed also with -q."
)]
pub(crate) struct QueueAdd {
    /// The lane: its runs start in the order in which they were added.
    pub(crate) lane: Name,
    /// Start only when this run is over, and not at all unless it succeeded; may be given again.
    #[arg(long, value_name = "RUN", help_heading = "In the lane")]
    pub(crate) after: Vec<LaneRun>,
    /// Start whatever came of the runs that it follows.
    #[arg(long, requires = "after", help_heading = "In the lane")]
    pub(crate) even_if_failed: bool,
    #[command(flatten)]
    pub(crate) course: CourseOptions,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

impl QueueAdd {
    /// What the command line says about how the command is run.
    pub(crate) fn settings(&self) -> Settings {
        self.course.settings()
    }
}

/// A run, or all of a lane's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Run(LaneRun),
    Lane(Name),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        if given.contains('/') {
            return given.parse().map(Self::Run);
        }
        given.parse().map(Self::Lane).map_err(|e: crate::name::InvalidName| e.to_string())
    }
}
