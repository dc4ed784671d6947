//! Processes: starting one, waiting for it, ending its whole tree, and who keeps a lock.
//!
//! - [`Program`], [`Spawn`], [`Child`]: start one program as cheaply as the kernel can, and hear how it ended.
//! - [`Signals`]: signals as something to read, while the job runs.

#[cfg(test)]
mod alone;
mod child;
mod program;
mod signals;
mod spawn;
mod wait;

pub(crate) use child::{Child, Ended, Status, Usage};
pub(crate) use program::Program;
pub(crate) use signals::{Mask, Received, Signals};
pub(crate) use spawn::{Spawn, SpawnError};
pub(crate) use wait::wait_for;
mod temporary;
pub(crate) use temporary::*;
