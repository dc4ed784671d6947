//! The words of `check`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueHint};

use crate::{
    job::{definition::Alerts, settings},
    name::Name,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Prints one line, as monitoring plugins do: `TRIPLOCK OK - … | …`. What an option says goes before \
the job file's key of the same name. Takes no lock.\n\
Exit code: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN; of several the worst, CRITICAL before WARNING before UNKNOWN. \
Whatever cannot be told is UNKNOWN: a wrong command line, a wrong job file, state that cannot be read, no such job, \
no job at all."
)]
pub(crate) struct Check {
    /// The job [default: all that a file defines, and all that have run].
    pub(crate) job: Option<Name>,
    /// CRITICAL when no success has ended for longer: seconds, or 90s 5m 1h 1d.
    #[arg(long, value_name = "DURATION", value_parser = settings::time, allow_negative_numbers = true)]
    pub(crate) expect_every: Option<Duration>,
    /// CRITICAL after so many failures in a row, WARNING before [default: 1].
    #[arg(long, value_name = "N", value_parser = settings::positive_count, allow_negative_numbers = true)]
    pub(crate) alert_after: Option<u32>,
    /// CRITICAL when an attempt lasts longer [default: the job file's time limit and kill-after, if it has a limit].
    #[arg(long, value_name = "DURATION", value_parser = settings::time, allow_negative_numbers = true)]
    pub(crate) alert_running: Option<Duration>,
    /// WARNING after so many skipped starts in a row.
    #[arg(long, value_name = "N", value_parser = settings::positive_count, allow_negative_numbers = true)]
    pub(crate) alert_skips: Option<u32>,
    /// Look for job files in this file or directory only, as `run` would.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) config: Option<PathBuf>,
}

impl Check {
    /// What the line takes for wrong.
    pub(crate) fn alerts(&self) -> Alerts {
        let Self { expect_every, alert_after, alert_running, alert_skips, .. } = *self;
        Alerts { expect_every, alert_after, alert_running, alert_skips }
    }
}
