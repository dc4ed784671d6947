//! When something happened, comparable between processes.

use serde::{Deserialize, Serialize};

/// A moment on the machine's monotonic clock, in nanoseconds: the same clock for all processes, so their moments
/// can be put in order, and nobody sets it back during a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        // The clock counts from boot, never below zero.
        let part = |n: i64| u64::try_from(n).unwrap_or(0);
        Self(part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec))
    }

    pub(super) fn since(self, start: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(start.0))
    }
}
