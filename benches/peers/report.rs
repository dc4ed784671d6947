//! What was measured, as ratios beside their targets: on the terminal and in the documentation.

use std::{fmt::Write as _, fs, path::Path};

use crate::{drive::median, site::Site};

/// One quantity, a figure a round.
pub(crate) struct Figures {
    rounds: Vec<f64>,
    unit: &'static str,
}

impl Figures {
    pub(crate) fn new(rounds: &[f64], unit: &'static str) -> Self {
        Self { rounds: rounds.to_vec(), unit }
    }

    fn shown(&self) -> String {
        let middle = median(&self.rounds);
        let digits = if middle < 10.0 { 2 } else { 0 };
        format!("{middle:.digits$} {}", self.unit)
    }
}

/// What the project promised itself.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    bound: Option<(bool, f64)>,
    aim: Option<f64>,
}

impl Target {
    pub(crate) fn none() -> Self {
        Self { bound: None, aim: None }
    }

    pub(crate) fn at_most(bound: f64) -> Self {
        Self { bound: Some((false, bound)), aim: None }
    }

    pub(crate) fn at_least(bound: f64) -> Self {
        Self { bound: Some((true, bound)), aim: None }
    }

    /// What it would like to reach.
    pub(crate) fn aiming_at(self, aim: f64) -> Self {
        Self { aim: Some(aim), ..self }
    }

    fn shown(self) -> String {
        let Some((least, bound)) = self.bound else { return String::new() };
        let mut shown = format!("{} {bound}", if least { "≥" } else { "≤" });
        if let Some(aim) = self.aim {
            let _ = write!(shown, " (aim {aim})");
        }
        shown
    }

    fn verdict(self, ratio: f64) -> &'static str {
        match self.bound {
            None => "",
            Some((true, bound)) if ratio >= bound => "met",
            Some((false, bound)) if ratio <= bound => "met",
            Some(_) => "MISSED",
        }
    }
}

/// One part's table.
pub(crate) struct Part {
    name: &'static str,
    about: &'static str,
    rows: Vec<[String; 6]>,
    tables: Vec<String>,
    notes: Vec<String>,
}

impl Part {
    pub(crate) fn new(name: &'static str, about: &'static str) -> Self {
        eprintln!("{name} …");
        Self { name, about, rows: Vec::new(), tables: Vec::new(), notes: Vec::new() }
    }

    /// A ratio of two quantities that were measured in the same rounds.
    pub(crate) fn row(&mut self, what: &str, ours: &Figures, theirs: &Figures, target: Target) {
        let ratios: Vec<f64> = ours.rounds.iter().zip(&theirs.rounds).map(|(ours, theirs)| ours / theirs).collect();
        self.push(what, &ratios, target, [ours.shown(), theirs.shown()]);
    }

    /// A figure that is judged by itself.
    pub(crate) fn figure(&mut self, what: &str, figures: &Figures, target: Target) {
        self.push(what, &figures.rounds, target, [String::new(), String::new()]);
    }

    fn push(&mut self, what: &str, ratios: &[f64], target: Target, [ours, theirs]: [String; 2]) {
        let (ratio, low, high) = (
            median(ratios),
            ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
        );
        let shown = format!("{ratio:.2} ({low:.2}-{high:.2})");
        eprintln!("  {what}: {shown} {} {}", target.shown(), target.verdict(ratio));
        self.rows.push([what.to_owned(), shown, target.shown(), target.verdict(ratio).to_owned(), ours, theirs]);
    }

    /// A table that is no ratios, as Markdown.
    pub(crate) fn table(&mut self, title: &str, columns: &[&str], rows: &[Vec<String>]) {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let head: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        let mut table = format!("{title}:\n\n{}|{}\n", line(&head), "---|".repeat(columns.len()));
        for row in rows {
            table += &line(row);
        }
        self.tables.push(table);
    }

    /// Something that the table cannot say.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Prints the table, and puts it in the place of the last one in the documentation.
    pub(crate) fn record(&self, site: &Site) {
        let section = self.section(site);
        println!("{section}");
        if let Some(document) = site.document() {
            replace(document, self.name, &section);
        }
    }

    fn section(&self, site: &Site) -> String {
        let mut text = format!("### {}\n\n{}.\n\n", self.name, self.about);
        if !self.rows.is_empty() {
            text += "| what | ratio: median (min-max) | target | | ours | the other |\n|---|---|---|---|---|---|\n";
            for row in &self.rows {
                let _ = writeln!(text, "| {} |", row.join(" | "));
            }
            text.push('\n');
        }
        for table in &self.tables {
            let _ = writeln!(text, "{table}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        let _ = writeln!(text, "- {}\n- Again: `benches/run {}`", site.facts(), self.name);
        text
    }
}

/// Puts a part's text between its marks in the document, or at the end when it has none yet.
fn replace(document: &Path, name: &str, section: &str) {
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end: {name} -->\n"));
    let old = fs::read_to_string(document).unwrap_or_else(|_| "# Benchmarks\n".to_owned());
    let new = match (old.find(&begin), old.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{begin}{section}{}", &old[..from], &old[to..])
        }
        _ => format!("{}\n\n{begin}{section}{end}", old.trim_end()),
    };
    fs::write(document, new).unwrap_or_else(|error| panic!("cannot write {}: {error}", document.display()));
}
