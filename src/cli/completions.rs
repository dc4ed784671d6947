//! `completions`.

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "For one user:\n  \
bash  triplock completions bash >~/.local/share/bash-completion/completions/triplock\n  \
zsh   triplock completions zsh >DIR/_triplock, with DIR in $fpath\n  \
fish  triplock completions fish >~/.config/fish/completions/triplock.fish\n\
The Debian package brings all three.")]
pub(crate) struct Completions {
    /// The shell that is to complete triplock's command line.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}
