//! Options that clap does not know, from a help text that was written by hand: those of `flock`.

use clap_mangen::roff::{bold, roman};

use super::document::Document;

/// Such a help text.
#[derive(Debug, Default)]
pub(super) struct Verbatim<'t> {
    /// How it is called, a line each.
    pub(super) usage: Vec<&'t str>,
    /// What it does.
    pub(super) description: Vec<&'t str>,
    /// A heading, and the lines under it.
    options: Vec<(&'t str, Vec<&'t str>)>,
}

impl<'t> Verbatim<'t> {
    /// Its paragraphs: one that is headed by a line with a colon has its own lines indented.
    pub(super) fn parse(help: &'t str) -> Self {
        let mut parsed = Self::default();
        for paragraph in help.split("\n\n").map(|paragraph| paragraph.trim_matches('\n')) {
            let (head, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
            let lines = || rest.lines().map(str::trim).collect();
            match head.strip_suffix(':') {
                Some("Usage") => parsed.usage = lines(),
                Some(heading) => parsed.options.push((heading, lines())),
                None => parsed.description.push(paragraph),
            }
        }
        parsed
    }

    pub(super) fn write_options(&self, page: &mut Document) {
        for (heading, lines) in &self.options {
            if *heading != "Options" {
                page.subsection(heading);
            }
            for line in lines {
                let (option, meaning) = line.split_once("  ").unwrap_or((line, ""));
                page.item(vec![bold(option), roman("")], meaning.trim());
            }
        }
    }
}
