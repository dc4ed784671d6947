//! `man`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

#[derive(Debug, Args)]
#[command(after_help = "Prints the page as man(1) reads it: `triplock man run | man -l -` shows it.")]
pub(crate) struct Man {
    /// The subcommand, `run` or `trip add`, whose page it is to be [default: the program's own].
    #[arg(value_name = "SUBCOMMAND")]
    pub(crate) words: Vec<String>,
    /// Write every page into this directory instead, a file each; it is made when it is missing.
    #[arg(long, value_name = "DIR", conflicts_with = "words", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
}
