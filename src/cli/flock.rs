//! `flock`: its words are not clap's to understand (see [`crate::flock`]).

use std::ffi::OsString;

use clap::Args;

#[derive(Debug, Args)]
#[command(disable_help_flag = true, override_help = crate::flock::help("triplock flock"))]
pub(crate) struct Flock {
    /// As flock(1) has them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}
