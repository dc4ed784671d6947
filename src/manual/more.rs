//! What the pages tell that no help text does: `text/*.txt`, in blocks with an empty line between them, each headed by
//! the names of the pages that it belongs to (`triplock-trip*` is `triplock-trip` and all that begin so).
//!
//! Text, and not tables of strings: every pointer in a table would be relocated at every start of the program.

/// A variable or a file, and what it is for; what an example is for, and its command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) meaning: &'static str,
}

const DESCRIPTIONS: &str = include_str!("text/descriptions.txt");
const ENVIRONMENT: &str = include_str!("text/environment.txt");
const JOB_ENVIRONMENT: &str = include_str!("text/job-environment.txt");
const FILES: &str = include_str!("text/files.txt");
const EXAMPLES: &str = include_str!("text/examples.txt");
const SEE_ALSO: &str = include_str!("text/see-also.txt");

/// Further paragraphs of the description.
pub(super) fn description(page: &str) -> impl Iterator<Item = &'static str> {
    blocks(DESCRIPTIONS, page)
}

/// What is read from the environment.
pub(super) fn environment(page: &str) -> Vec<Entry> {
    entries(ENVIRONMENT, page)
}

/// What a job finds in its environment.
pub(super) fn job_environment(page: &str) -> Vec<Entry> {
    entries(JOB_ENVIRONMENT, page)
}

/// Which files are read and written.
pub(super) fn files(page: &str) -> Vec<Entry> {
    entries(FILES, page)
}

/// Command lines that do what they say.
pub(super) fn examples(page: &str) -> Vec<Entry> {
    entries(EXAMPLES, page)
}

/// Other pages to read, as in `flock(1)`, besides those of the commands above and below.
pub(super) fn see_also(page: &str) -> impl Iterator<Item = &'static str> {
    blocks(SEE_ALSO, page).flat_map(|list| list.trim_end().split(", "))
}

fn entries(text: &'static str, page: &str) -> Vec<Entry> {
    let entry = |block: &'static str| {
        let (name, meaning) = block.split_once('\n').unwrap_or((block, ""));
        Entry { name, meaning: meaning.trim_end() }
    };
    blocks(text, page).map(entry).collect()
}

/// What belongs to that page, without the line that says so.
fn blocks(text: &'static str, page: &str) -> impl Iterator<Item = &'static str> {
    let page = page.to_owned();
    text.split("\n\n").filter_map(move |block| {
        let (pages, rest) = block.split_once('\n')?;
        let is_this =
            |name: &str| name == page || name.strip_suffix('*').is_some_and(|begins| page.starts_with(begins));
        pages.split(' ').any(is_this).then_some(rest)
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::{cli::Cli, manual::Manual};

    fn pages() -> Vec<String> {
        let pages = Manual::new(Cli::command(), None).pages();
        pages.into_iter().map(|page| page.file.trim_end_matches(".1").to_owned()).collect()
    }

    #[test]
    fn every_block_belongs_to_a_page_that_there_is() {
        let pages = pages();
        for text in [DESCRIPTIONS, ENVIRONMENT, JOB_ENVIRONMENT, FILES, EXAMPLES, SEE_ALSO] {
            for block in text.split("\n\n") {
                let (names, rest) = block.split_once('\n').expect("a block has a line for its pages, and more");
                assert!(!rest.trim().is_empty(), "{block}");
                for name in names.split(' ') {
                    let begins = name.trim_end_matches('*');
                    assert!(pages.iter().any(|page| page == begins), "no page {name} for: {rest}");
                }
            }
        }
    }

    #[test]
    fn every_page_has_an_example() {
        for page in pages() {
            assert!(!examples(&page).is_empty(), "no example on the page of {page}");
        }
    }

    #[test]
    fn every_example_is_a_command_line_that_triplock_takes() {
        for page in pages() {
            for Entry { meaning: command, .. } in examples(&page) {
                // As the shell reads it, up to a pipe or a redirection.
                let line = command.split(['>', '|']).next().unwrap();
                let script = format!("triplock() {{ printf '%s\\n' \"$@\"; }}\n{line}");
                let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
                assert!(shell.status.success(), "{command}");
                let said = String::from_utf8(shell.stdout).unwrap();
                let words: Vec<_> = std::iter::once("triplock").chain(said.lines()).collect();
                let parsed = Cli::try_parse_from(&words);
                assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
                assert!(words.join("-").starts_with(&page), "{command} on the page of {page}");
            }
        }
    }

    #[test]
    fn every_page_that_is_referred_to_is_there() {
        let pages = pages();
        for page in &pages {
            for name in see_also(page).filter(|name| name.starts_with("triplock")) {
                assert!(pages.iter().any(|page| format!("{page}(1)") == name), "{page} refers to {name}");
            }
        }
    }

    #[test]
    fn the_environment_of_a_job_is_what_the_documentation_says() {
        let documented = include_str!("../../docs/jobs.md");
        for Entry { name, .. } in job_environment("triplock-run") {
            assert!(documented.contains(&format!("`{name}`")), "docs/jobs.md lacks {name}");
        }
    }
}
