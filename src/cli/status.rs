//! The words of `status`.

use clap::Args;

use crate::name::Name;

#[derive(Debug, Args)]
#[command(after_help = "Whether something runs is read from the kernel's list of locks, never from a file, and \
without taking a lock: looking never makes a start see \"busy\".")]
pub(crate) struct Status {
    /// The job or trip [default: all].
    pub(crate) name: Option<Name>,
    /// Which processes keep the lock of that job, trip or `--lock` name: from the wrapper to the one that really does.
    #[arg(long, requires = "name")]
    pub(crate) why: bool,
}
