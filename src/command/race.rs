//! `race`.
use crate::{cli, exit::ExitCode, output::Output};
pub(super) fn race(_output: &Output, _args: &cli::Race) -> anyhow::Result<ExitCode> {
    todo!()
}
pub(super) fn student(_args: &cli::RaceStudent) -> anyhow::Result<ExitCode> {
    todo!()
}
