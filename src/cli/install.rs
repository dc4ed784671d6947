//! `install` and `uninstall`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use crate::name::Name;

/// What starts jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scheduler {
    /// A timer and a service: `triplock@JOB.timer`, with the times of the job file's `on_calendar`.
    Systemd,
    /// A file in /etc/cron.d, or lines in the user's crontab, with the times of the job file's `cron`.
    Cron,
}

#[derive(Debug, Args)]
#[command(after_help = "Everything is checked before the first file is written, and put back when the scheduler \
refuses. What triplock did not write, or what was edited since, is never changed (exit code 4).\n\
Exit code: 0 done, 4 something else is there, 66 no such job, 71 no such scheduler here, 77 root is needed, \
78 wrong times, user or path.")]
pub(crate) struct Install {
    /// Which scheduler.
    #[arg(value_enum)]
    pub(crate) scheduler: Scheduler,
    /// The job; a job file defines it.
    pub(crate) job: Name,
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// systemd: let the job write to little and call little (see the comments of what is written).
    #[arg(long)]
    pub(crate) hardened: bool,
    /// Print the files instead of writing them; needs no rights and no running scheduler.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Look for the job in this file or directory only, now and when it is started.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Only what `install` wrote is removed. A job that is running goes on; what it recorded stays.\n\
Exit code: 0 done, or nothing was installed; 4 a file was edited since; 77 root is needed."
)]
pub(crate) struct Uninstall {
    /// Which scheduler.
    #[arg(value_enum)]
    pub(crate) scheduler: Scheduler,
    /// The job.
    pub(crate) job: Name,
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// Print what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

// (A doc comment here would become the help of every command that asks so.)
#[derive(Debug, Args)]
pub(crate) struct Scope {
    /// In the scheduler of this user [default, except for root].
    #[arg(long, conflicts_with = "system")]
    pub(crate) user: bool,
    /// In the scheduler of the machine [default for root].
    #[arg(long)]
    pub(crate) system: bool,
}
