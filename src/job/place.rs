//! Where a process id means something.

use std::os::unix::fs::MetadataExt as _;

use super::Running;
use crate::error::{Error, Result};

/// This boot of this kernel, and this pid namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) boot: String,
    /// The namespace's inode.
    pub(crate) pid_namespace: u64,
}

const BOOT: &str = "/proc/sys/kernel/random/boot_id";
const NAMESPACE: &str = "/proc/self/ns/pid";

impl Place {
    /// This process's.
    pub(crate) fn current() -> Result<Self> {
        let boot = std::fs::read_to_string(BOOT).map_err(|e| Error::io("read", BOOT, e))?;
        let namespace = std::fs::metadata(NAMESPACE).map_err(|e| Error::io("stat", NAMESPACE, e))?;
        Ok(Self { boot: boot.trim_end().to_owned(), pid_namespace: namespace.ino() })
    }

    /// The same, or a place that is no other's where /proc does not tell: no reason not to run a job.
    pub(crate) fn current_or_unknown() -> Self {
        Self::current().unwrap_or(Self { boot: String::new(), pid_namespace: 0 })
    }

    /// Whether that run's process ids mean here what they meant to it.
    pub(crate) fn is_of(&self, running: &Running) -> bool {
        running.boot == self.boot && running.pid_namespace == self.pid_namespace
    }
}
