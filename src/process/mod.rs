//! Processes: starting one, waiting for it, ending its whole tree, and who keeps a lock.
//!
//! - [`Program`], [`Spawn`]: start one program as cheaply as the kernel can, or become it, and hear how it ended.
//! - [`Signals`]: signals as something to read, while the job runs.
//! - [`Handle`]: a process that cannot be mistaken for a later one of its number; [`info`], [`descendants`]: the process table.
//! - [`Tree`], [`Cgroup`]: a command with all that it started, and its certain end.
//! - [`locks`]: who took a file's lock, and who keeps it.
//! - [`in_foreground`]: whether we are what runs on a terminal.

#[cfg(test)]
pub(crate) mod alone;
mod cgroup;
mod child;
mod clone3;
mod detach;
mod fork;
mod handle;
mod hint;
pub(crate) mod locks;
mod program;
mod signals;
mod spawn;
pub(crate) mod startup;
mod sweep;
mod table;
mod terminal;
mod tree;
mod wait;

pub(crate) use cgroup::Cgroup;
pub(crate) use child::{Ended, Status, Usage};
pub(crate) use detach::{Departure, TerminalIgnored, detach};
pub(crate) use fork::fork;
pub(crate) use handle::Handle;
pub(crate) use hint::why_missing;
pub(crate) use locks::{Keeper, Keepers, LockTable, bytes_of, has_byte, keepers, keeps, who_have_bytes};
pub(crate) use program::Program;
pub(crate) use signals::{Received, Signals, is_asked_to_end, survive_the_file_limit};
pub(crate) use spawn::{Spawn, SpawnError};
pub(crate) use table::{ProcessInfo, command_line, descendants, info, uptime};
pub(crate) use terminal::in_foreground;
pub(crate) use tree::{Tree, become_subreaper, kill_tree_of};
pub(crate) use wait::wait_for;
