//! `completions`: what the shells' own completion systems read, made of the command line as clap knows it.

use std::io::{self, Write as _};

use clap::{Arg, Command, CommandFactory as _};

use super::written;
use crate::{
    cli::{Cli, Shell},
    error::Result,
    exit::ExitCode,
};

pub(super) fn completions(shell: Shell) -> Result<ExitCode> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // First into memory: the generators panic when they cannot write, and a closed pipe is no bug.
    let mut script = Vec::new();
    let mut command = for_people(&Cli::command());
    clap_complete::generate(shell, &mut command, "triplock", &mut script);
    if shell == clap_complete::Shell::Fish {
        script.extend(words_for_fish(&command).into_bytes());
    }
    let mut to = io::stdout().lock();
    written(to.write_all(&script).and_then(|()| to.flush()), ExitCode::Success)
}

/// The command line without the subcommands that `--help` does not show either: the generators would offer them.
fn for_people(whole: &Command) -> Command {
    let shown = whole.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    Command::new("triplock").version(env!("CARGO_PKG_VERSION")).args(whole.get_arguments()).subcommands(shown.cloned())
}

/// The words that may stand where no option does, which the generator for fish leaves out.
fn words_for_fish(command: &Command) -> String {
    let line = |subcommand: &Command| {
        let values = subcommand.get_positionals().flat_map(Arg::get_possible_values);
        let words: Vec<_> = values.map(|value| value.get_name().to_owned()).collect();
        let condition = format!("__fish_triplock_using_subcommand {}", subcommand.get_name());
        (!words.is_empty()).then(|| format!("complete -c triplock -n \"{condition}\" -f -a \"{}\"\n", words.join(" ")))
    };
    command.get_subcommands().filter_map(line).collect()
}
