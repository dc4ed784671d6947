//! The subcommands, a file each: take what was parsed, call the library, print.

mod race;

use std::io::{self, Write as _};

use clap::Parser as _;

use crate::{
    cli::{Cli, Command},
    exit::ExitCode,
    output::{self, Failure, Output},
};

/// Parses the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output::new(&cli.global);
    let done = match cli.command {
        Command::Race(args) => race::race(&output, &args),
        Command::RaceStudent(args) => race::student(&args),
        _ => todo!(),
    };
    done.unwrap_or_else(|error| output::report(&output, &error))
}
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::Usage
}
