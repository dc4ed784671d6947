//! The note in a lock file: who holds it, for people, and the last fence.
//!
//! It is written in place after winning, never before, and left behind on release: that a lock is held is derived
//! from the lock, never from the note. It is one block of constant size, so an older, longer note cannot show through.

use std::ffi::OsStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Fence;

/// The size of the note in bytes; a power of two below the page size, so one write is never split.
pub(super) const NOTE_SIZE: usize = 512;

/// How much of a command line the note keeps, in bytes.
const COMMAND_KEPT: usize = 160;

/// Who this process is, for the notes of the locks it takes.
#[derive(Debug, Clone)]
pub struct Identity {
    pid: u32,
    host: String,
    command: String,
    invocation_id: Option<String>,
}

impl Identity {
    /// This process and its command line.
    pub fn current() -> Self {
        let invocation_id = std::env::var("INVOCATION_ID").ok().filter(|id| is_id(id));
        let command = shortened(std::env::args_os());
        let mut host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        while host.len() > 64 {
            host.pop();
        }
        Self { pid: std::process::id(), host, command, invocation_id }
    }

    /// The same with another command line.
    pub(crate) fn with_command(self, words: impl Iterator<Item: AsRef<OsStr>>) -> Self {
        Self { command: shortened(words), ..self }
    }

    /// Node name of the machine.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// This process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// By which start of a unit the service manager began what this process belongs to; `None` outside of units.
    pub(crate) fn invocation_id(&self) -> Option<&str> {
        self.invocation_id.as_deref()
    }
}

/// Whether it can be an id that a service manager gave; anybody can set the variable.
fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A command line in at most 160 bytes, without control characters.
pub(crate) fn shortened(words: impl Iterator<Item: AsRef<OsStr>>) -> String {
    let mut command = String::new();
    for word in words {
        if command.len() >= COMMAND_KEPT {
            break;
        }
        if !command.is_empty() {
            command.push(' ');
        }
        command.push_str(&word.as_ref().to_string_lossy());
    }
    let mut command: String = command.chars().filter(|c| !c.is_control()).collect();
    while command.len() > COMMAND_KEPT {
        command.pop();
    }
    command
}

/// Who holds (or last held) a lock: a hint, read without holding it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id on `host`.
    pub pid: u32,
    /// Node name of the machine.
    pub host: String,
    /// When the lock was acquired.
    #[serde(with = "crate::clock::as_rfc3339")]
    pub since: DateTime<Utc>,
    /// The holder's command line, shortened.
    pub command: String,
    /// The fence of the acquisition.
    pub fence: Fence,
}

#[derive(Serialize, Deserialize)]
struct Note {
    format: u64,
    #[serde(flatten)]
    holder: Holder,
}

impl Holder {
    /// The note of who asks a server, which gives the fence.
    pub(crate) fn note(identity: &Identity, since: DateTime<Utc>) -> Self {
        Self::new(identity, since, Fence(0))
    }

    pub(super) fn new(identity: &Identity, since: DateTime<Utc>, fence: Fence) -> Self {
        Self { pid: identity.pid, host: identity.host.clone(), since, command: identity.command.clone(), fence }
    }

    /// The note as written to the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let note = |holder: &Self| {
            serde_json::to_vec(&Note { format: crate::FORMAT, holder: holder.clone() }).expect("a note is plain data")
        };
        let mut bytes = note(self);
        if bytes.len() >= NOTE_SIZE {
            // Quotes and backslashes double in JSON; the command is the part one can do without.
            bytes = note(&Self { command: String::new(), ..self.clone() });
        }
        bytes.resize(NOTE_SIZE - 1, b' ');
        bytes.push(b'\n');
        bytes
    }

    /// The note in those bytes; `None` when there is none, or only part of one.
    ///
    /// # Errors
    /// The format, when a newer triplock wrote the note: it is not to be overwritten.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, u64> {
        #[derive(Deserialize)]
        struct Format {
            format: u64,
        }
        if let Ok(note) = serde_json::from_slice::<Note>(bytes) {
            if note.format <= crate::FORMAT {
                return Ok(Some(note.holder));
            }
        }
        match serde_json::from_slice::<Format>(bytes) {
            Ok(Format { format }) if format > crate::FORMAT => Err(format),
            _ => Ok(None),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.since.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S");
        write!(f, "pid {}", self.pid)?;
        // On another host the number means nothing by itself.
        if rustix::system::uname().nodename().to_string_lossy() != self.host {
            write!(f, " on {}", self.host)?;
        }
        write!(f, " at {since}: {}", self.command)
    }
}
