//! The exit codes: one table. The README's and `--help`'s copies are compared with it by a test.

/// What a triplock process says to its caller when it ends.
///
/// The numbers above 63 are those of `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Success = 0,
    /// `race`: the run was not safe. `check`: WARNING.
    Unsafe = 1,
    /// `check`: CRITICAL.
    Critical = 2,
    /// Not enough seats left. `check`: UNKNOWN.
    SoldOut = 3,
    /// Another rule refused it.
    Refused = 4,
    /// The command line is wrong.
    Usage = 64,
    /// State or input cannot be trusted.
    Corrupt = 65,
    /// No such trip, job or file.
    NotFound = 66,
    /// The server of a store does not answer.
    Unavailable = 69,
    /// A bug in triplock.
    Internal = 70,
    /// The operating system refused.
    System = 71,
    /// A file or directory cannot be created.
    CannotCreate = 73,
    /// Nobody can know whether it happened; retry with the same request id.
    Uncertain = 74,
    /// Somebody else holds the lock.
    Busy = 75,
    /// The lock was lost while it was held; nothing was committed.
    LockLost = 76,
    /// Permission denied.
    Permission = 77,
    /// Wrong configuration, or state of a newer triplock.
    Configuration = 78,
    /// `run`, `update`: the command reached its time limit.
    TimeLimit = 124,
    /// `run`, `update`: triplock itself failed, and the command was not run.
    NotRun = 125,
    /// `run`, `update`: the command cannot be executed.
    NotExecutable = 126,
    /// `run`, `update`: there is no such command.
    NoSuchCommand = 127,
}

impl ExitCode {
    /// Every code, in order.
    pub const ALL: [Self; 21] = [
        Self::Success,
        Self::Unsafe,
        Self::Critical,
        Self::SoldOut,
        Self::Refused,
        Self::Usage,
        Self::Corrupt,
        Self::NotFound,
        Self::Unavailable,
        Self::Internal,
        Self::System,
        Self::CannotCreate,
        Self::Uncertain,
        Self::Busy,
        Self::LockLost,
        Self::Permission,
        Self::Configuration,
        Self::TimeLimit,
        Self::NotRun,
        Self::NotExecutable,
        Self::NoSuchCommand,
    ];

    /// The number that the caller sees.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What the number means, as the documentation says it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Success => "done",
            Self::Unsafe => "race: oversold, or an update was lost; check: WARNING",
            Self::Critical => "check: CRITICAL",
            Self::SoldOut => "sold out; check: UNKNOWN, whatever the reason",
            Self::Refused => {
                "refused by another rule (already booked, no such booking, trip exists, resize below what is booked, request id used for something else; install: something else is there)"
            }
            Self::Usage => "wrong command line",
            Self::Corrupt => "corrupt state, or a batch with a bad line",
            Self::NotFound => "no such trip, job, run or file",
            Self::Unavailable => "the server of a store cannot be reached",
            Self::Internal => "internal error",
            Self::System => "the operating system refused",
            Self::CannotCreate => "a file or directory cannot be created",
            Self::Uncertain => "outcome uncertain: retry with the same request id",
            Self::Busy => "busy: the lock is held or the lane is full, try later",
            Self::LockLost => "the lock or lease was lost while held; nothing was committed",
            Self::Permission => "permission denied",
            Self::Configuration => "wrong configuration or the wrong server, or state written by a newer triplock",
            Self::TimeLimit => "run, update, queue wait: the command reached its time limit (137 if it took KILL)",
            Self::NotRun => {
                "run, update, queue wait: triplock itself failed; the command was not run, or its end is not known"
            }
            Self::NotExecutable => "run, update, queue wait: the command cannot be executed",
            Self::NoSuchCommand => "run, update, queue wait: there is no such command",
        }
    }

    /// The table as the documentation prints it, a line each.
    pub fn table() -> String {
        use std::fmt::Write as _;
        Self::ALL.iter().fold(String::new(), |mut table, code| {
            let _ = writeln!(table, "{:>4}  {}", code.code(), code.meaning());
            table
        })
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}
