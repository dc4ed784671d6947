//! `config.toml`: what holds for every command.

use std::path::{Path, PathBuf};

use super::{Document, Places, Problem, read_file, text};

const FILE: &str = "config.toml";
const KEYS: [&str; 1] = ["state_dir"];

/// The state directory that the configuration of that user names, else the machine's.
///
/// # Errors
/// What is wrong in the file that would have told. Another directory would mean locks that do not meet, so nothing is
/// guessed.
pub(crate) fn state_dir(places: &Places, user: u32) -> Result<Option<PathBuf>, Problem> {
    for path in paths(places) {
        if let Some(dir) = read(&path, user).map_err(|mut problems| problems.swap_remove(0))? {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

/// Everything that is wrong in the files.
pub(crate) fn check(places: &Places, user: u32) -> Vec<Problem> {
    paths(places).filter_map(|path| read(&path, user).err()).flatten().collect()
}

fn paths(places: &Places) -> impl Iterator<Item = PathBuf> + '_ {
    [&places.user, &places.machine].into_iter().flatten().map(|place| place.join(FILE))
}

/// What one file says, or everything that is wrong with it.
fn read(path: &Path, user: u32) -> Result<Option<PathBuf>, Vec<Problem>> {
    match read_file(path, user) {
        Ok(Some(text)) => understand(path, &text),
        Ok(None) => Ok(None),
        Err(problem) => Err(vec![problem]),
    }
}

fn understand(path: &Path, source: &str) -> Result<Option<PathBuf>, Vec<Problem>> {
    let (mut document, table) = Document::parse(path, source);
    let mut state_dir = None;
    for (key, value) in table.get_ref() {
        if key.get_ref() != KEYS[0] {
            document.unknown(key, "", &KEYS);
            continue;
        }
        match text(value.get_ref()) {
            Ok(dir) if Path::new(dir).is_absolute() => state_dir = Some(PathBuf::from(dir)),
            Ok(_) => document.problem(value.span(), "state_dir is a relative path; give an absolute one"),
            Err(why) => document.problem(value.span(), format!("state_dir: {why}")),
        }
    }
    if document.has_problems() { Err(document.into_problems()) } else { Ok(state_dir) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(source: &str) -> Vec<String> {
        let problems = understand(Path::new("/c.toml"), source).unwrap_err();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_state_directory_is_named_or_not() {
        assert_eq!(understand(Path::new("/c"), "state_dir = '/s'").unwrap(), Some("/s".into()));
        assert_eq!(understand(Path::new("/c"), "# nothing\n").unwrap(), None);
    }

    #[test]
    fn each_mistake_has_its_line() {
        assert_eq!(
            problems("# x\nstatedir = '/s'\nstate_dir = 's'\n"),
            [
                r#"/c.toml: line 2: unknown key "statedir"; did you mean state_dir?"#,
                "/c.toml: line 3: state_dir is a relative path; give an absolute one",
            ]
        );
        assert_eq!(
            problems("\nstate_dir = 7"),
            ["/c.toml: line 2: state_dir: a whole number does not fit; give a string in quotes"]
        );
        assert!(problems("state_dir = \n")[0].starts_with("/c.toml: line 1: not TOML: "));
    }
}
