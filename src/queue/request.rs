//! What is to be run, and how: all that a process needs that starts it another day, after a reboot too.

use std::{
    ffi::{OsStr, OsString},
    io::{Read as _, Write as _},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{Queue, pending::Pending};
use crate::{
    dir::{Access, Dir},
    error::{Error, Result},
    job::{LaneRun, Options, Policy, RunId},
    lock::{Place, Wait},
    name::Name,
};

/// A queued run. It is a file of its own, which nobody but its maker may read: an environment has passwords in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    format: u64,
    lane: Name,
    pub(crate) run: RunId,
    /// Its place in its lane.
    pub(crate) ticket: u64,
    command: Vec<Text>,
    /// The working directory.
    directory: Text,
    umask: u32,
    /// `NAME=VALUE` each.
    environment: Vec<Text>,
    options: Options,
    /// The runs that must be over first.
    #[serde(default)]
    pub(crate) after: Vec<LaneRun>,
    /// Whether they may have failed.
    #[serde(default)]
    pub(crate) even_if_failed: bool,
}

/// What is read of a request first.
#[derive(Deserialize)]
struct Format {
    format: u64,
}

/// Any bytes: as a string where they are UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Utf8(String),
    Bytes(Vec<u8>),
}

impl From<&OsStr> for Text {
    fn from(text: &OsStr) -> Self {
        text.to_str().map_or_else(|| Self::Bytes(text.as_bytes().to_vec()), |text| Self::Utf8(text.to_owned()))
    }
}

impl Text {
    fn to_os_string(&self) -> OsString {
        match self {
            Self::Utf8(text) => text.into(),
            Self::Bytes(bytes) => OsString::from_vec(bytes.clone()),
        }
    }
}

/// What belongs to the locks of the run that queued this one, or to that run: the other is not part of it.
const NOT_INHERITED: [&str; 7] = [
    "TRIPLOCK_HELD",
    "TRIPLOCK_HELD_STORE",
    "TRIPLOCK_JOB",
    "TRIPLOCK_RUN_ID",
    "TRIPLOCK_ATTEMPT",
    "TRIPLOCK_FENCE",
    "TRIPLOCK_LOCK_FILE",
];

impl Request {
    /// A command as this process would run it here and now.
    ///
    /// # Errors
    /// `Io` when there is no working directory any more.
    pub(crate) fn here(lane: &Name, command: &[OsString], options: Options) -> Result<Self> {
        let directory = std::env::current_dir().map_err(|e| Error::io("find", "the working directory", e))?;
        let variable = |(name, value): (OsString, OsString)| {
            let mut text = name;
            text.push("=");
            text.push(value);
            Text::from(text.as_os_str())
        };
        let inherited = |(name, _): &(OsString, OsString)| !NOT_INHERITED.iter().any(|not| name == not);
        Ok(Self {
            format: crate::FORMAT,
            lane: lane.clone(),
            run: RunId(0),
            ticket: 0,
            command: command.iter().map(|word| word.as_os_str().into()).collect(),
            directory: directory.as_os_str().into(),
            umask: umask(),
            environment: std::env::vars_os().filter(inherited).map(variable).collect(),
            options,
            after: Vec::new(),
            even_if_failed: false,
        })
    }

    /// The same once it has its number and its place.
    pub(crate) fn placed(&mut self, run: RunId, ticket: u64) {
        (self.run, self.ticket) = (run, ticket);
    }

    pub(crate) fn place(&self) -> Place {
        Place { ticket: self.ticket, run: self.run.0 }
    }

    pub(crate) fn command(&self) -> Vec<OsString> {
        self.command.iter().map(Text::to_os_string).collect()
    }

    /// Queued runs wait for as long as it takes.
    pub(crate) fn options(&self) -> Options {
        Options { policy: Policy::Wait(Wait::Forever), ..self.options.clone() }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.to_os_string().into()
    }

    pub(crate) fn umask(&self) -> u32 {
        self.umask
    }

    /// What is to be changed in our environment so that it is the run's.
    pub(crate) fn environment(&self) -> Vec<(OsString, Option<OsString>)> {
        let wanted: Vec<_> = self.environment.iter().filter_map(|text| variable(&text.to_os_string())).collect();
        let is_wanted = |name: &OsString| wanted.iter().any(|(wanted, _)| wanted == name);
        let surplus = std::env::vars_os().map(|(name, _)| name).filter(|name| !is_wanted(name));
        let surplus: Vec<_> = surplus.map(|name| (name, None)).collect();
        wanted.into_iter().map(|(name, value)| (name, Some(value))).chain(surplus).collect()
    }

    /// As it stands in a file.
    pub(super) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a request is plain data");
        line.push(b'\n');
        line
    }

    /// Writes it to a new file of its maker's own. The caller holds the lock that guards the name.
    pub(super) fn write(&self, dir: &Dir, name: &str) -> Result<std::fs::File> {
        let mut file = dir.create_private(name)?;
        if let Err(e) = file.write_all(&self.line()) {
            dir.unlink(name)?;
            return Err(Error::cannot_create(dir.path_of(name), e));
        }
        Ok(file)
    }

    /// Reads what is to be run of that run of the lane, as [`Request::read`] does.
    ///
    /// # Errors
    /// `Denied` when somebody has put the request of another run in its place.
    pub(super) fn of(queue: &Queue, pending: Pending) -> Result<Option<Self>> {
        for is_left in [pending.is_left, !pending.is_left] {
            let name = Pending { is_left, ..pending }.file_name();
            if let Some(request) = Self::read(&queue.dir, &name)? {
                return request.must_be(queue.name(), pending.into(), || queue.dir.path_of(&name)).map(Some);
            }
        }
        Ok(None)
    }

    /// Itself, if it is that run's.
    pub(super) fn must_be(self, lane: &Name, place: Place, path: impl FnOnce() -> PathBuf) -> Result<Self> {
        let is_it = self.lane == *lane && self.run.0 == place.run && [0, self.ticket].contains(&place.ticket);
        if is_it {
            return Ok(self);
        }
        let why = format!("it says that it is run {}/{}, and somebody has renamed it", self.lane, self.run);
        Err(Error::Denied { path: path(), why })
    }

    /// Reads one that this user made; `None` when there is none of that name.
    ///
    /// # Errors
    /// `Denied` of another user's: who may write to the state directory must not choose what others run.
    pub(super) fn read(dir: &Dir, name: &str) -> Result<Option<Self>> {
        let path = || dir.path_of(name);
        let ours = rustix::process::geteuid().as_raw();
        match dir.owner(name)? {
            None => return Ok(None),
            Some(owner) if owner != ours => {
                let why = format!("user {owner} queued it, and only that user can start or retry it");
                return Err(Error::Denied { path: path(), why });
            }
            Some(_) => {}
        }
        let Some((mut file, owner)) = dir.open_private(name, Access::Read)? else { return Ok(None) };
        if owner != ours {
            return Err(Error::Denied { path: path(), why: "somebody exchanges it".to_owned() });
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|e| Error::io("read", path(), e))?;
        let corrupt = |e: serde_json::Error| Error::Corrupt { path: path(), offset: 0, why: e.to_string() };
        let Format { format } = serde_json::from_slice(&text).map_err(corrupt)?;
        if format > crate::FORMAT {
            return Err(Error::NewerFormat { path: path(), found: format });
        }
        serde_json::from_slice(&text).map(Some).map_err(corrupt)
    }
}

/// The umask of this process: it can only be asked for by setting it.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::RWXU);
    rustix::process::umask(mask);
    mask.bits()
}

fn variable(text: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = text.as_bytes();
    // A name may begin with the sign (some shells make such names), and has at least one character.
    let at = 1 + bytes.get(1..)?.iter().position(|byte| *byte == b'=')?;
    Some((OsStr::from_bytes(&bytes[..at]).to_owned(), OsStr::from_bytes(&bytes[at + 1..]).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::StateDir;

    #[test]
    fn what_is_written_is_read_and_any_bytes_are_words() {
        let directory = tempfile::tempdir().unwrap();
        let dir = StateDir::open(directory.path(), false).unwrap().make_subdirectory("jobs").unwrap();
        let odd = OsString::from_vec(b"\xff\xfe\n".to_vec());
        let options =
            Options { time_limit: Some(std::time::Duration::from_millis(1500)), slots: 3, ..Options::default() };
        let mut request = Request::here(&"a".parse().unwrap(), &["echo".into(), odd.clone()], options).unwrap();
        request.placed(RunId(7), 9);
        assert!(Request::read(&dir, "7").unwrap().is_none());
        request.write(&dir, "7").unwrap();
        let read = Request::read(&dir, "7").unwrap().unwrap();
        assert_eq!(read, request);
        assert_eq!((read.command(), read.options().time_limit), (vec!["echo".into(), odd], request.options.time_limit));
        assert_eq!(read.options().policy, Policy::Wait(Wait::Forever));
        assert!(read.environment().iter().any(|(name, value)| name == "PATH" && value.is_some()));
        std::fs::write(dir.path_of("8"), "{\"format\":99}").unwrap();
        assert!(matches!(Request::read(&dir, "8"), Err(Error::NewerFormat { found: 99, .. })));
        std::fs::write(dir.path_of("9"), "{\"format\":1").unwrap();
        assert!(matches!(Request::read(&dir, "9"), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_variable_has_a_name() {
        assert_eq!(variable(OsStr::new("A=b=c")), Some(("A".into(), "b=c".into())));
        assert_eq!(variable(OsStr::new("=A=b")), Some(("=A".into(), "b".into())));
        assert_eq!(variable(OsStr::new("A")), None);
        assert_eq!(variable(OsStr::new("")), None);
    }
}
