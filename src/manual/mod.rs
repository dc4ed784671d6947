//! The manual: a page for triplock and one for each subcommand.
//!
//! Names, usage, options and exit codes come from the command line as clap knows it and from [`crate::exit`]; what those
//! do not tell (environment, files, examples, where to read on) is in [`more`].

mod document;
mod more;
mod page;
mod verbatim;

use chrono::NaiveDate;
use clap::Command;

use page::Subject;

/// A page, ready to be written.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its file's name, as in `triplock-trip-add.1`.
    pub(crate) file: String,
    /// What man(1) reads.
    pub(crate) text: String,
}

/// All pages.
#[derive(Debug)]
pub(crate) struct Manual {
    command: Command,
    date: String,
}

impl Manual {
    /// The manual of that command line, with that date at the foot of each page.
    pub(crate) fn new(command: Command, date: Option<NaiveDate>) -> Self {
        let mut command = command.disable_help_subcommand(true);
        // Only what is built has its global options and its full names.
        command.build();
        Self { command, date: date.map_or_else(String::new, |date| date.to_string()) }
    }

    /// Every page: the program's own first, then the subcommands' in the order of `--help`, each before its own.
    pub(crate) fn pages(&self) -> Vec<Page> {
        let mut subjects = vec![Subject::whole(&self.command)];
        let mut next = 0;
        while next < subjects.len() {
            let parts = subjects[next].parts();
            next += 1;
            subjects.splice(next..next, parts);
        }
        subjects.iter().map(|subject| subject.page(&self.date)).collect()
    }

    /// The page of the subcommand that those words name.
    pub(crate) fn page(&self, words: &[String]) -> Option<Page> {
        let subject = words.iter().try_fold(Subject::whole(&self.command), |subject, word| subject.part(word))?;
        Some(subject.page(&self.date))
    }
}
