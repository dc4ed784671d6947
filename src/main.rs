//! The `triplock` command: translates what came of it into an exit code.

use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // A panic has printed its message by now.
    let code = std::panic::catch_unwind(triplock::command::main);
    code.unwrap_or(triplock::exit::ExitCode::Internal.code()).into()
}
