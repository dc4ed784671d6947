//! The `triplock` command: translates what came of it into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    triplock::command::main().into()
}
