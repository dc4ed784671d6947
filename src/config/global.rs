//! `config.toml`: what holds for every command.

use std::{
    fmt,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{Document, Places, Problem, read_file, text};
use crate::store::{StoreChoice, StoreUrl};

const FILE: &str = "config.toml";
const KEYS: [&str; 3] = ["state_dir", "store", "store_password_file"];

/// The user's `config.toml` and the machine's; each is read when something is asked that it would tell, and once.
///
/// What is wrong in a file that would have told is an error: another directory or store would mean locks that do not
/// meet, so nothing is guessed.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    /// The user's first.
    files: Vec<(PathBuf, OnceLock<Understood>)>,
    user: u32,
    /// Which of them is the user's.
    users: Option<PathBuf>,
}

/// What one file says, or everything that is wrong with it.
type Understood = Result<Settings, Vec<Problem>>;

/// What one file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Settings {
    state_dir: Option<PathBuf>,
    store: Option<Told<StoreChoice>>,
    store_password_file: Option<Told<PathBuf>>,
}

/// Something that a file says, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told<T> {
    pub(crate) value: T,
    pub(crate) path: PathBuf,
    /// From 1.
    pub(crate) line: usize,
}

impl<T> fmt::Display for Told<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}", self.path.display(), self.line)
    }
}

impl Configuration {
    /// The files in those places, as they would be read for that user.
    pub(crate) fn new(places: Places, user: u32) -> Self {
        let users = places.user.as_ref().map(|place| place.join(FILE));
        let files = [places.user, places.machine].into_iter().flatten();
        Self { files: files.map(|place| (place.join(FILE), OnceLock::new())).collect(), user, users }
    }

    /// The state directory.
    pub(crate) fn state_dir(&self) -> Result<Option<&Path>, Problem> {
        self.first(|settings| settings.state_dir.as_deref())
    }

    /// The store.
    pub(crate) fn store(&self) -> Result<Option<&Told<StoreChoice>>, Problem> {
        self.first(|settings| settings.store.as_ref())
    }

    /// The file with the password of a server that was named elsewhere: of a file that names none itself, or the same. Any
    /// other server's password must not be told to this one.
    pub(crate) fn store_password_file(&self, of: &StoreUrl) -> Result<Option<&Told<PathBuf>>, Problem> {
        let names_another = |settings: &Settings| match settings.store.as_ref().map(|store| &store.value) {
            // As they are shown: without passwords.
            Some(StoreChoice::Server(url)) => url.to_string() != of.to_string(),
            Some(StoreChoice::Files) | None => false,
        };
        self.first(|settings| settings.store_password_file.as_ref().filter(|_| !names_another(settings)))
    }

    /// The same of the store that such a file names: that file's own. What another one says is meant for another server,
    /// which must not be told to this one.
    pub(crate) fn store_password_file_beside(&self, store: &Told<StoreChoice>) -> Option<&Told<PathBuf>> {
        let (path, file) = self.files.iter().find(|(path, _)| *path == store.path)?;
        self.read(path, file).as_ref().ok()?.store_password_file.as_ref()
    }

    /// Everything that is wrong in the files.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.files.iter().filter_map(|(path, file)| self.read(path, file).clone().err()).flatten().collect()
    }

    fn first<'s, T: 's>(&'s self, tells: impl Fn(&'s Settings) -> Option<T>) -> Result<Option<T>, Problem> {
        for (path, file) in &self.files {
            match self.read(path, file) {
                Err(problems) => return Err(problems[0].clone()),
                Ok(settings) => match tells(settings) {
                    None => {}
                    told => return Ok(told),
                },
            }
        }
        Ok(None)
    }

    fn read<'s>(&self, path: &Path, file: &'s OnceLock<Understood>) -> &'s Understood {
        file.get_or_init(|| match read_file(path, self.user) {
            Ok(Some((text, is_open))) => understand(path, &text, is_open),
            Ok(None) => Ok(Settings::default()),
            // sudo -u keeps $HOME: whoever may not even enter it has no configuration there.
            Err(_) if self.users.as_deref() == Some(path) && is_anothers(path, self.user) => Ok(Settings::default()),
            Err(problem) => Err(vec![problem]),
        })
    }
}

/// Whether the way to that file ends at a directory of somebody else's that this user may not enter.
fn is_anothers(path: &Path, user: u32) -> bool {
    let reached = path.ancestors().skip(1).find_map(|directory| std::fs::metadata(directory).ok());
    reached.is_some_and(|directory| directory.uid() != user && directory.mode() & 0o1 == 0)
}

/// `is_open`: others than the owner may read the file.
fn understand(path: &Path, source: &str, is_open: bool) -> Understood {
    let (mut document, table) = Document::parse(path, source);
    let mut settings = Settings::default();
    for (key, value) in table.get_ref() {
        let word = key.get_ref().as_ref();
        if !KEYS.contains(&word) {
            document.unknown(key, "", &KEYS);
            continue;
        }
        let given = match text(value.get_ref()) {
            Ok(given) => given,
            Err(why) => {
                document.problem(value.span(), format!("{word}: {why}"));
                continue;
            }
        };
        let line = document.line(value.span().start);
        match word {
            "store" => match given.parse::<StoreChoice>() {
                Ok(StoreChoice::Server(url)) if url.has_password() && is_open => {
                    let why = format!(
                        "store has a password in it and others than its owner may read the file; chmod 600 {}, or move the \
                         password to a file that store_password_file names",
                        path.display()
                    );
                    document.problem(value.span(), why);
                }
                Ok(value) => settings.store = Some(Told { value, path: path.to_owned(), line }),
                Err(why) => document.problem(value.span(), format!("store: {why}")),
            },
            _ if !Path::new(given).is_absolute() => {
                document.problem(value.span(), format!("{word} is a relative path; give an absolute one"));
            }
            "state_dir" => settings.state_dir = Some(PathBuf::from(given)),
            _ => settings.store_password_file = Some(Told { value: given.into(), path: path.to_owned(), line }),
        }
    }
    if document.has_problems() { Err(document.into_problems()) } else { Ok(settings) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(source: &str) -> Settings {
        understand(Path::new("/c.toml"), source, true).unwrap()
    }

    fn problems(source: &str) -> Vec<String> {
        let problems = understand(Path::new("/c.toml"), source, true).unwrap_err();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_state_directory_is_named_or_not() {
        assert_eq!(understood("state_dir = '/s'").state_dir, Some("/s".into()));
        assert_eq!(understood("# nothing\n"), Settings::default());
    }

    #[test]
    fn a_store_is_named_or_not() {
        let settings = understood("\nstore = 'postgres://h/d'\nstore_password_file = '/p'");
        let store = settings.store.unwrap();
        assert_eq!(
            (store.to_string(), format!("{:?}", store.value)),
            ("/c.toml line 2".to_owned(), "Server(StoreUrl(postgres://h:5432/d))".to_owned())
        );
        assert_eq!(settings.store_password_file.unwrap().value, Path::new("/p"));
        assert_eq!(understood("store = 'files'").store.unwrap().value, StoreChoice::Files);
        let secret = "store = 'postgres://u:s3cret@h/d'";
        assert!(understand(Path::new("/c.toml"), secret, false).unwrap().store.is_some());
        let said = problems(secret).remove(0);
        assert!(said.starts_with("/c.toml: line 1: store has a password in it") && !said.contains("s3cret"), "{said}");
        assert!(said.contains("; chmod 600 /c.toml, or"), "{said}");
    }

    #[test]
    fn each_mistake_has_its_line() {
        assert_eq!(
            problems("# x\nstatedir = '/s'\nstate_dir = 's'\nstore = 'redis://:x/y@h'\nstore_password_file = 'p'\n"),
            [
                r#"/c.toml: line 2: unknown key "statedir"; did you mean state_dir?"#,
                "/c.toml: line 3: state_dir is a relative path; give an absolute one",
                "/c.toml: line 4: store: an @ or # stands after the host; in a user, a password or a database write / as %2F, \
                 ? as %3F, # as %23 and @ as %40",
                "/c.toml: line 5: store_password_file is a relative path; give an absolute one",
            ]
        );
        assert_eq!(
            problems("\nstate_dir = 7"),
            ["/c.toml: line 2: state_dir: a whole number does not fit; give a string in quotes"]
        );
        assert!(problems("state_dir = \n")[0].starts_with("/c.toml: line 1: not TOML: "));
    }

    #[test]
    fn the_user_is_asked_before_the_machine_and_each_file_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(place(name)).unwrap();
            std::fs::write(place(name).join(FILE), text).unwrap();
        };
        write("user", "store = 'redis://h'\n");
        write("machine", "state_dir = '/s'\nstore_password_file = '/other'\nstore = 'files'\n");
        let places = Places { machine: Some(place("machine")), user: Some(place("user")) };
        let configuration = Configuration::new(places, rustix::process::geteuid().as_raw());
        let store = configuration.store().unwrap().unwrap();
        assert_eq!(store.path, place("user").join(FILE));
        assert_eq!(configuration.store_password_file_beside(store), None);
        let url = |text: &str| text.parse::<StoreUrl>().unwrap();
        assert_eq!(configuration.store_password_file(&url("redis://x")).unwrap().unwrap().value, Path::new("/other"));
        assert_eq!(configuration.state_dir().unwrap(), Some(Path::new("/s")));
        write("other", "store = 'redis://h'\nstore_password_file = '/its'\n");
        let other = Places { machine: Some(place("other")), user: None };
        let other = Configuration::new(other, rustix::process::geteuid().as_raw());
        assert_eq!(other.store_password_file(&url("redis://x")).unwrap(), None, "it is another server's password");
        assert!(other.store_password_file(&url("redis://h")).unwrap().is_some());
        write("machine", "nonsense");
        assert_eq!((configuration.state_dir().unwrap(), configuration.problems()), (Some(Path::new("/s")), vec![]));
    }
}
