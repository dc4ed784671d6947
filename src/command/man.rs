//! `man`: prints a manual page, or writes them all.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use chrono::{DateTime, NaiveDate, Utc};
use clap::CommandFactory as _;
use serde::Serialize;

use super::written;
use crate::{
    cli::{self, Cli},
    error::{Error, Result},
    exit::ExitCode,
    manual::{Manual, Page},
    output::Output,
};

pub(super) fn man(output: &Output, args: &cli::Man) -> Result<ExitCode> {
    let manual = Manual::new(Cli::command(), date());
    match &args.dir {
        Some(dir) => write_all(output, &manual.pages(), dir),
        None => print(output, &manual, &args.words),
    }
}

fn print(output: &Output, manual: &Manual, words: &[String]) -> Result<ExitCode> {
    let asked = words.join(" ");
    // As the pages name each other, and as what is typed: `queue-add(1)`, `queue add`.
    let split: Vec<String> =
        words.iter().flat_map(|word| word.trim_start_matches("triplock-").split('-')).map(str::to_owned).collect();
    let Some(page) = manual.page(words).or_else(|| manual.page(&split)) else {
        return Err(Error::Usage(format!("no such subcommand: {asked}; `triplock --help` lists them")));
    };
    let mut to = io::stdout().lock();
    let printed = to.write_all(page.text.as_bytes()).and_then(|()| to.flush());
    if io::stdout().is_terminal() {
        let space = if asked.is_empty() { "" } else { " " };
        output.message(&format!("to read this page: triplock man{space}{asked} | man -l -"));
    }
    written(printed, ExitCode::Success)
}

/// What was written.
#[derive(Serialize)]
struct Written<'a> {
    dir: &'a Path,
    pages: Vec<&'a str>,
}

fn write_all(output: &Output, pages: &[Page], dir: &Path) -> Result<ExitCode> {
    fs::create_dir_all(dir).map_err(|e| Error::cannot_create(dir, e))?;
    for page in pages {
        let path = dir.join(&page.file);
        write(dir, &path, page).map_err(|e| Error::cannot_create(&path, e))?;
    }
    let done = Written { dir, pages: pages.iter().map(|page| &*page.file).collect() };
    let mut to = io::stdout().lock();
    let text = || format!("{} pages in {}", pages.len(), dir.display());
    written(output.result(&mut to, &done, text), ExitCode::Success)
}

/// In one step: whoever reads the page meanwhile has the old one or the new one.
fn write(dir: &Path, path: &Path, page: &Page) -> io::Result<()> {
    let mode = fs::Permissions::from_mode(0o644);
    let mut fresh = tempfile::Builder::new().prefix(".triplock-man-").permissions(mode).tempfile_in(dir)?;
    fresh.write_all(page.text.as_bytes())?;
    fresh.persist(path)?;
    Ok(())
}

/// The date at the foot of a page: `$SOURCE_DATE_EPOCH`, so that a package is the same whenever it is built, else the
/// day on which this program was built or installed.
fn date() -> Option<NaiveDate> {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let given = given.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let built =
        || fs::metadata("/proc/self/exe").and_then(|program| program.modified()).ok().map(DateTime::<Utc>::from);
    given.or_else(built).map(|time| time.date_naive())
}
