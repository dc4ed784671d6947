//! Processes: starting one, waiting for it, ending its whole tree, and who keeps a lock.

pub(crate) mod command;
pub(crate) mod startup;
