//! How a job is run: what the command line and the job file come to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{crontab::Tick, lock::Wait, name::Name};

/// How a job is run. As JSON, durations are in seconds, and what a queued run has no use for is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// What to do while the job's lock is held.
    #[serde(skip)]
    pub policy: Policy,
    /// The exit code of a run that was skipped.
    #[serde(skip)]
    pub conflict_exit_code: u8,
    /// The exit code of a run that somebody ended on purpose, or of a wait that a signal ended; else it is the command's.
    #[serde(skip)]
    pub stop_exit_code: Option<u8>,
    /// How long an attempt may take.
    #[serde(with = "optional_seconds")]
    pub time_limit: Option<Duration>,
    /// How long the job has between the first signal and KILL; zero sends no KILL (as timeout(1) means it). `None`: 10
    /// seconds, and a quarter of the lease on a server.
    #[serde(with = "optional_seconds")]
    pub kill_after: Option<Duration>,
    /// The first signal, by number.
    pub signal: i32,
    /// Attempts after a failure.
    pub retries: Retries,
    /// Exit codes that count as success.
    pub ok_exit: Vec<u8>,
    /// At most one success within this time.
    #[serde(with = "optional_seconds")]
    pub once_per: Option<Duration>,
    /// Wait a random time up to this long before asking for the lock.
    #[serde(skip)]
    pub jitter: Duration,
    /// How many may run at once, 1 to [`Options::MAX_SLOTS`].
    pub slots: u32,
    /// Further locks, in byte order, each once.
    pub locks: Vec<Name>,
    /// Give the job no lock descriptor.
    pub close: bool,
    /// What keeps the lock.
    pub hold: Hold,
    /// How long the job's lease on a server lasts from each renewal; `None`: [`Options::LEASE`].
    #[serde(skip)]
    pub lease: Option<Duration>,
    /// Run once for each of these times, whichever host comes first.
    #[serde(skip)]
    pub tick: Option<Tick>,
    /// Where the output goes.
    pub output: OutputMode,
    /// How many logs are kept.
    pub keep_runs: u32,
    /// How many bytes of output a log keeps.
    pub log_limit: u64,
}

/// What to do while the job's lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Do not run.
    Skip,
    /// Wait.
    Wait(Wait),
    /// End the one that runs, wait until it is gone, then run.
    Replace,
}

/// What keeps the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// The command: when it ends, the lock is free, whatever it left running.
    Command,
    /// Whatever still has the lock's descriptor.
    Tree,
}

/// Where a job's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputMode {
    /// Where triplock's goes.
    Inherit,
    /// To a log.
    Capture,
    /// To a log, which is printed if the run fails.
    OnFailure,
}

/// Attempts after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Retries {
    /// How many, at most.
    pub count: u32,
    /// The pause before the first.
    #[serde(with = "seconds")]
    pub delay: Duration,
    /// What each further pause is multiplied by.
    pub backoff: f64,
    /// No pause is longer.
    #[serde(with = "seconds")]
    pub max_delay: Duration,
}

impl Retries {
    /// The pause after that many failed attempts (1 or more).
    pub fn pause_after(&self, failed: u32) -> Duration {
        let factor = self.backoff.powi(i32::try_from(failed.saturating_sub(1)).unwrap_or(i32::MAX));
        let pause = Duration::try_from_secs_f64(self.delay.as_secs_f64() * factor);
        pause.unwrap_or(self.max_delay).min(self.max_delay)
    }
}

impl Default for Retries {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { count: 0, delay: seconds(1), backoff: 2.0, max_delay: seconds(300) }
    }
}

impl Options {
    /// No job has more slots.
    pub const MAX_SLOTS: u32 = 64;

    /// How long a lease lasts unless told otherwise.
    pub const LEASE: Duration = Duration::from_secs(30);

    /// How long the job has between the first signal and KILL, where its lock is a file.
    pub fn grace(&self) -> Duration {
        self.kill_after.unwrap_or(Duration::from_secs(10))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: Policy::Skip,
            conflict_exit_code: crate::exit::ExitCode::Busy.code(),
            stop_exit_code: None,
            time_limit: None,
            kill_after: None,
            signal: libc::SIGTERM,
            retries: Retries::default(),
            ok_exit: vec![0],
            once_per: None,
            jitter: Duration::ZERO,
            slots: 1,
            locks: Vec::new(),
            close: false,
            hold: Hold::Command,
            lease: None,
            tick: None,
            output: OutputMode::Inherit,
            keep_runs: 20,
            log_limit: 10 * 1024 * 1024,
        }
    }
}

/// For `#[serde(with = …)]`.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// The same of one that may be missing.
mod optional_seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    // serde's signature.
    #[allow(clippy::ref_option)]
    pub(super) fn serialize<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(from)?;
        seconds.map(|seconds| Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)).transpose()
    }
}
