//! Open files between two commits of one process: opening them again is a fifth of what a commit costs a thread.
//!
//! They are taken out while they are in use, so no two threads ever share one, and each is checked against its path
//! again before it is trusted. Nor may two processes share one: to the kernel a forked child that locks the file it
//! inherited is its parent. So they are marked with the process that opened them.

use std::fs::File;

use super::{index::Index, ledger::Ledger};
use crate::dir::FileId;

/// What the last commit of a trip left open.
#[derive(Debug)]
pub(super) struct Kept {
    process: u32,
    pub(super) lock: Option<(File, FileId)>,
    pub(super) sync: Option<(File, FileId)>,
    pub(super) ledger: Option<Ledger>,
    pub(super) index: Option<Index>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { process: std::process::id(), lock: None, sync: None, ledger: None, index: None }
    }
}

impl Kept {
    /// Whether this process opened them, and not one that it was forked from.
    pub(super) fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }
}
