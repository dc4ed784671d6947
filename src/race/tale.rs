//! A race as people read it.

use std::fmt;

use super::{LockKind, Report, Verdict, what::Seats};

/// One race, told in the order in which it happened, and how it ended.
#[derive(Debug, Clone, Copy)]
pub struct Tale<'a> {
    /// The race.
    pub report: &'a Report,
    /// Colour the verdict.
    pub color: bool,
}

impl fmt::Display for Tale<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.report;
        let width = report.events.iter().map(|e| e.student).max().unwrap_or(0).to_string().len();
        for event in &report.events {
            let ms = event.after.as_millis();
            writeln!(f, "{ms:>6} ms  student {:<width$}  {}", event.student, event.what)?;
        }
        writeln!(f, "Final seat count: {}", report.seats_left)?;
        writeln!(f, "Bookings: {}", bookings(report))?;
        let verdict = Colored { verdict: report.verdict(), width: 0, color: self.color };
        write!(f, "Verdict: {verdict} ({} for {})", counted(report), Seats(report.seats.into()))?;
        f.write_str(match report.in_order() {
            Some(true) => ", served in the order of arrival",
            Some(false) => ", NOT served in the order of arrival",
            None => "",
        })
    }
}

/// Several races, a line each, and what was not run.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// The races.
    pub rows: &'a [Report],
    /// The locks whose server is not known.
    pub not_run: &'a [LockKind],
    /// Colour the verdicts.
    pub color: bool,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lock      in         bookings  seats left  verdict      as promised")?;
        for row in self.rows {
            let verdict = Colored { verdict: row.verdict(), width: 11, color: self.color };
            let (lock, place, booked, left) = (row.lock, row.place, row.bookings.len(), row.seats_left);
            let promised = if row.as_promised() { "yes" } else { "NO" };
            let in_order = if row.in_order().is_some() { ", in order" } else { "" };
            write!(f, "\n{lock:<8}  {place:<9}  {booked:>8}  {left:>10}  {verdict}  ")?;
            write!(f, "{promised} ({}{in_order})", row.promise)?;
        }
        for lock in self.not_run {
            write!(f, "\n{lock:<8}  not run: {}", lock.what_to_give())?;
        }
        Ok(())
    }
}

fn bookings(report: &Report) -> String {
    let names: Vec<String> = report.bookings.iter().map(|b| format!("student {}", b.student)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// "1 booking", "2 bookings".
pub(super) fn counted(report: &Report) -> String {
    match report.bookings.len() {
        1 => "1 booking".to_owned(),
        n => format!("{n} bookings"),
    }
}

/// Padded first, so that the colour takes no column.
struct Colored {
    verdict: Verdict,
    width: usize,
    color: bool,
}

impl fmt::Display for Colored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, width, color } = *self;
        match (color, verdict) {
            (false, _) => write!(f, "{verdict:<width$}"),
            (true, Verdict::Safe) => write!(f, "\x1b[1;32m{verdict:<width$}\x1b[0m"),
            (true, _) => write!(f, "\x1b[1;31m{verdict:<width$}\x1b[0m"),
        }
    }
}
