//! Processes: starting one, waiting for it, ending its whole tree, and who keeps a lock.
//!
//! - [`Program`], [`Spawn`], [`Child`]: start one program as cheaply as the kernel can, and hear how it ended.
//! - [`Signals`]: signals as something to read, while the job runs.
//! - [`Handle`]: a process that cannot be mistaken for a later one of its number; [`info`], [`descendants`]: the process table.
//! - [`locks`]: who took a file's lock, and who keeps it.
//! - [`terminal`]: whether we are what runs there.

#[cfg(test)]
mod alone;
mod child;
mod handle;
pub(crate) mod locks;
mod program;
mod signals;
mod spawn;
mod table;
pub(crate) mod terminal;
mod wait;

pub(crate) use child::{Child, Ended, Status, Usage};
pub(crate) use handle::Handle;
pub(crate) use program::Program;
pub(crate) use signals::{Mask, Received, Signals};
pub(crate) use spawn::{Spawn, SpawnError};
pub(crate) use table::{ProcessInfo, command_line, descendants, info};
pub(crate) use wait::wait_for;
mod temporary;
pub(crate) use temporary::*;
