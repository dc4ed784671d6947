//! What can go wrong. Busy and refused are not here: they are answers (see [`crate::Acquire`] and [`crate::Refusal`]).

use std::{fmt, io, path::PathBuf, sync::Arc};

use crate::{
    exit::ExitCode,
    job::{LaneRun, RunId},
    name::{Name, RequestId},
};

/// A failed operation. Each variant carries the operation and the path, and says what to do next where there is
/// something to do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// An argument that no rule of the command line could catch.
    Usage(String),
    /// A file under the state directory holds what triplock did not write, or lost what it did. Nothing was changed.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
        why: String,
    },
    /// A symbolic link, fifo, directory … where a regular file belongs.
    NotRegular {
        /// The planted thing.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A line of a batch is not a booking. Nothing of the batch was booked.
    BadBatch {
        /// Where the batch came from.
        source: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The file was written by a newer triplock.
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format it names.
        found: u64,
    },
    /// The trip does not exist, or was removed.
    NoSuchTrip(Name),
    /// No job file defines the job, or it never ran.
    NoSuchJob {
        /// The job.
        job: Name,
        /// What to do next.
        why: String,
    },
    /// A run of a job left no log, or none of them did.
    NoSuchLog {
        /// The job.
        job: Name,
        /// The run, if one was named.
        run: Option<RunId>,
        /// Which logs there are.
        why: String,
    },
    /// There is no queued run of that number.
    NoSuchRun {
        /// Its lane and its number.
        run: LaneRun,
        /// What to do next.
        why: String,
    },
    /// A job or configuration file is wrong.
    BadConfiguration {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 when it is about the whole file.
        line: usize,
        /// What is wrong there, and what to do.
        why: String,
    },
    /// A file or crontab line stands where triplock's would, and triplock did not write it, or not as it is now.
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is there, and what to do.
        why: String,
    },
    /// The scheduler is not there, does not run, or refused. Nothing was changed.
    NoScheduler(String),
    /// A process of this run's own ancestry holds the lock: waiting for it would never end.
    Nested(Name),
    /// A system call failed.
    Io {
        /// What was being done: a verb.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// How it failed.
        source: Arc<io::Error>,
    },
    /// The ledger took no line, and is as it was.
    NotAppended {
        /// The ledger.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// A file or directory could not be made.
    CannotCreate {
        /// The file or directory.
        path: PathBuf,
        /// How it failed.
        source: Arc<io::Error>,
    },
    /// The state directory (or a file in it) must not be trusted or cannot be used.
    Denied {
        /// The directory or file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The state directory lies where flock(2) cannot be trusted.
    UntrustedFileSystem {
        /// The state directory.
        path: PathBuf,
        /// What it lies on.
        kind: String,
    },
    /// The server of a store cannot be used.
    Server {
        /// Its URL, without a password.
        server: String,
        /// In which way.
        trouble: ServerTrouble,
        /// What happened, and what to do.
        why: String,
    },
    /// This thread holds that lock already: waiting for it would never end.
    Reentrant(Name),
    /// The lock file was replaced while its lock was held. Nothing was committed.
    LockLost(Name),
    /// The booking may or may not be on disk. A retry with the same id returns what happened, and never books twice.
    Uncertain {
        /// The id to retry with.
        request_id: Option<RequestId>,
        /// What failed.
        why: String,
    },
}

/// In which way a server cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerTrouble {
    /// It does not answer, or not in time.
    Unreachable,
    /// It does not let us in, or not do that.
    Denied,
    /// It is the wrong one, or set up wrongly: no such database, a replica, an older or newer schema.
    Misconfigured,
    /// What it holds cannot be trusted.
    Damaged,
    /// It refused a request that it should not refuse.
    Failed,
}

impl ServerTrouble {
    const fn exit_code(self) -> ExitCode {
        match self {
            Self::Unreachable => ExitCode::Unavailable,
            Self::Denied => ExitCode::Permission,
            Self::Misconfigured => ExitCode::Configuration,
            Self::Damaged => ExitCode::Corrupt,
            Self::Failed => ExitCode::System,
        }
    }

    /// The stable word for it in JSON output.
    const fn kind(self) -> &'static str {
        match self {
            Self::Unreachable => "server_unreachable",
            Self::Denied => "server_denied",
            Self::Misconfigured => "server_misconfigured",
            Self::Damaged => "server_damaged",
            Self::Failed => "server_failed",
        }
    }
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.into(), source: Arc::new(source.into()) }
    }

    pub(crate) fn cannot_create(path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::CannotCreate { path: path.into(), source: Arc::new(source.into()) }
    }

    /// The same of one request of several that failed together.
    pub(crate) fn about(self, id: &RequestId) -> Self {
        match self {
            Self::Uncertain { why, .. } => Self::Uncertain { request_id: Some(id.clone()), why },
            other => other,
        }
    }

    /// The exit code of the process that this error ends.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::Usage,
            Self::Corrupt { .. } | Self::NotRegular { .. } | Self::BadBatch { .. } => ExitCode::Corrupt,
            Self::NewerFormat { .. } | Self::UntrustedFileSystem { .. } | Self::BadConfiguration { .. } => {
                ExitCode::Configuration
            }
            Self::NoSuchTrip(_) | Self::NoSuchJob { .. } | Self::NoSuchLog { .. } | Self::NoSuchRun { .. } => {
                ExitCode::NotFound
            }
            Self::NotOurs { .. } => ExitCode::Refused,
            Self::Nested(_) => ExitCode::NotRun,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ExitCode::NotFound,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ExitCode::Permission,
                _ => ExitCode::System,
            },
            Self::CannotCreate { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ExitCode::Permission,
                _ => ExitCode::CannotCreate,
            },
            Self::NotAppended { .. } | Self::NoScheduler(_) => ExitCode::System,
            Self::Denied { .. } => ExitCode::Permission,
            Self::Server { trouble, .. } => trouble.exit_code(),
            Self::Reentrant(_) => ExitCode::Internal,
            Self::LockLost(_) => ExitCode::LockLost,
            Self::Uncertain { .. } => ExitCode::Uncertain,
        }
    }

    /// Every word that [`Error::kind`] may give.
    pub const KINDS: [&'static str; 26] = [
        "usage",
        "corrupt",
        "not_regular_file",
        "bad_batch",
        "newer_format",
        "no_such_trip",
        "no_such_job",
        "no_such_log",
        "no_such_run",
        "bad_configuration",
        "not_ours",
        "no_scheduler",
        "nested",
        "io",
        "not_appended",
        "cannot_create",
        "denied",
        "untrusted_file_system",
        "server_unreachable",
        "server_denied",
        "server_misconfigured",
        "server_damaged",
        "server_failed",
        "reentrant",
        "lock_lost",
        "uncertain",
    ];

    /// The stable word for this error in JSON output.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Corrupt { .. } => "corrupt",
            Self::NotRegular { .. } => "not_regular_file",
            Self::BadBatch { .. } => "bad_batch",
            Self::NewerFormat { .. } => "newer_format",
            Self::NoSuchTrip(_) => "no_such_trip",
            Self::NoSuchJob { .. } => "no_such_job",
            Self::NoSuchLog { .. } => "no_such_log",
            Self::NoSuchRun { .. } => "no_such_run",
            Self::BadConfiguration { .. } => "bad_configuration",
            Self::NotOurs { .. } => "not_ours",
            Self::NoScheduler(_) => "no_scheduler",
            Self::Nested(_) => "nested",
            Self::Io { .. } => "io",
            Self::NotAppended { .. } => "not_appended",
            Self::CannotCreate { .. } => "cannot_create",
            Self::Denied { .. } => "denied",
            Self::UntrustedFileSystem { .. } => "untrusted_file_system",
            Self::Server { trouble, .. } => trouble.kind(),
            Self::Reentrant(_) => "reentrant",
            Self::LockLost(_) => "lock_lost",
            Self::Uncertain { .. } => "uncertain",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::NoScheduler(why) => f.write_str(why),
            Self::Corrupt { path, offset, why } => write!(
                f,
                "{}: byte {offset}: {why}; nothing was changed; restore the file from a backup or follow \"Repair\" in docs/state.md",
                path.display()
            ),
            Self::NotRegular { path, kind } => write!(
                f,
                "{}: is a {kind}, not a regular file; triplock did not put it there: find out who did, then remove it",
                path.display()
            ),
            Self::BadBatch { source, line, why } => {
                write!(f, "{source}: line {line}: {why}; nothing of the batch was booked; correct the line and retry")
            }
            Self::NewerFormat { path, found } => write!(
                f,
                "{}: format {found} is newer than this triplock reads ({}); upgrade triplock",
                path.display(),
                crate::FORMAT
            ),
            Self::NoSuchLog { job, run: Some(run), why } => write!(f, "no log of run {run} of job {job}: {why}"),
            Self::NoSuchLog { job, run: None, why } => write!(f, "no log of job {job}: {why}"),
            Self::NoSuchRun { run, why } => write!(f, "no such run: {run}; {why}"),
            Self::NoSuchJob { job, why } => write!(f, "no such job: {job}; {why}"),
            Self::Nested(name) => {
                write!(f, "{name}: a run that this process belongs to holds that lock; waiting for it would never end")
            }
            Self::NoSuchTrip(name) => write!(f, "no such trip: {name}; `triplock trip list` shows those there are"),
            Self::Io { operation, path, source } => {
                write!(f, "cannot {operation} {}: {source}", path.display())
            }
            Self::NotAppended { path, source } => {
                write!(f, "cannot append to {}: {source}; nothing was changed", path.display())?;
                if source.kind() == io::ErrorKind::StorageFull {
                    f.write_str("; free some space and retry")?;
                }
                Ok(())
            }
            Self::CannotCreate { path, source } => write!(f, "cannot create {}: {source}", path.display()),
            Self::Denied { path, why }
            | Self::NotOurs { path, why }
            | Self::BadConfiguration { path, line: 0, why } => {
                write!(f, "{}: {why}", path.display())
            }
            Self::BadConfiguration { path, line, why } => write!(f, "{}: line {line}: {why}", path.display()),
            Self::UntrustedFileSystem { path, kind } => write!(
                f,
                "{}: on {kind}, where locks of other processes may not be seen; choose a local directory, or insist with --allow-network-fs",
                path.display()
            ),
            Self::Server { server, why, .. } => write!(f, "{server}: {why}"),
            Self::Reentrant(name) => {
                write!(f, "{name}: this thread holds that lock already; waiting for it would never end")
            }
            Self::LockLost(name) => write!(
                f,
                "{name}: the lock was lost while it was held: its file was replaced, or its lease is over; nothing was committed; retry, and never remove lock files"
            ),
            Self::Uncertain { request_id: Some(id), why } => {
                write!(
                    f,
                    "outcome uncertain: {why}; retry with --request-id {id}: it returns what happened and never books twice"
                )
            }
            Self::Uncertain { request_id: None, why } => {
                write!(f, "outcome uncertain: {why}; look at the trip before you retry")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } | Self::NotAppended { source, .. } | Self::CannotCreate { source, .. } => {
                Some(&**source)
            }
            _ => None,
        }
    }
}

/// The result of a triplock operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
