//! A manual page as it grows: sections, paragraphs, lists, in the language of man(7).

use std::fmt::Write as _;

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// The text of a page.
#[derive(Debug)]
pub(super) struct Document {
    text: String,
}

impl Document {
    /// An empty page of section 1.
    pub(super) fn new(title: &str, date: &str) -> Self {
        let mut head = Roff::new();
        let source = concat!("triplock ", env!("CARGO_PKG_VERSION"));
        head.control("TH", [title.to_uppercase().as_str(), "1", date, source, "triplock manual"]);
        // No hyphen in a path or an option, and no line stretched between two of them.
        head.control("ad", ["l"]).control("nh", []);
        Self { text: head.render() }
    }

    pub(super) fn section(&mut self, name: &str) {
        self.add(Roff::new().control("SH", [name]));
    }

    pub(super) fn subsection(&mut self, name: &str) {
        self.add(Roff::new().control("SS", [name]));
    }

    /// A paragraph as a help text has it: lines that begin with a space keep their form.
    pub(super) fn paragraph(&mut self, text: &str) {
        let mut roff = self.apart();
        let mut kept = false;
        for line in text.lines() {
            let keep = line.starts_with(' ');
            if keep != kept {
                for name in if keep { ["RS", "nf"] } else { ["fi", "RE"] } {
                    roff.control(name, []);
                }
                kept = keep;
            }
            roff.text([roman(line.trim())]);
        }
        if kept {
            roff.control("fi", []).control("RE", []);
        }
        self.add(&roff);
    }

    /// Lines that are not joined.
    pub(super) fn lines(&mut self, lines: impl IntoIterator<Item = Vec<Inline>>) {
        let mut roff = Roff::new();
        for (i, line) in lines.into_iter().enumerate() {
            if i > 0 {
                roff.control("br", []);
            }
            roff.text(line);
        }
        self.add(&roff);
    }

    /// A term and what it means.
    pub(super) fn item(&mut self, term: Vec<Inline>, meaning: &str) {
        self.add(Roff::new().control("TP", []).text(term).text([roman(meaning)]));
    }

    /// A command line and what it is for.
    pub(super) fn example(&mut self, what_for: &str, command: &str) {
        let mut roff = self.apart();
        roff.text([roman(what_for)]);
        roff.control("RS", []).control("nf", []);
        for line in command.lines() {
            roff.text([bold(line)]);
        }
        self.add(roff.control("fi", []).control("RE", []));
    }

    /// The beginning of a paragraph. (The first of a section is one by itself.)
    fn apart(&self) -> Roff {
        let mut roff = Roff::new();
        let last = self.text.lines().next_back().unwrap_or_default();
        if !last.starts_with(".SH") && !last.starts_with(".SS") {
            roff.control("PP", []);
        }
        roff
    }

    /// What `roff` or `clap_mangen` wrote.
    pub(super) fn add(&mut self, roff: &Roff) {
        self.add_text(&roff.render());
    }

    pub(super) fn add_text(&mut self, rendered: &str) {
        // Each begins with the same definitions, which the page has already.
        let definitions = Roff::new().render();
        self.text.push_str(rendered.strip_prefix(&definitions).unwrap_or(rendered));
    }

    /// The whole page.
    pub(super) fn finish(self) -> String {
        let mut finished = String::with_capacity(self.text.len());
        for line in self.text.lines() {
            if line.is_empty() {
                // An empty line is a paragraph of a help text; man(7) has a request for it.
                finished.push_str(".sp");
            } else if line.starts_with('.') {
                finished.push_str(&plain(line));
            } else {
                finished.push_str(&plain(&with_code_in_bold(line)));
            }
            finished.push('\n');
        }
        finished
    }
}

/// `` `code` `` as the help texts write it, in bold type.
fn with_code_in_bold(line: &str) -> String {
    if line.matches('`').count() % 2 != 0 {
        return line.to_owned();
    }
    let parts = line.split('`').enumerate();
    parts.map(|(i, part)| if i % 2 == 1 { format!(r"\fB{part}\fR") } else { part.to_owned() }).collect()
}

/// In ASCII, with escapes for what some man(1) or terminal would show as another character.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            '~' => plain.push_str(r"\(ti"),
            '^' => plain.push_str(r"\(ha"),
            '`' => plain.push_str(r"\(ga"),
            c if c.is_ascii() => plain.push(c),
            c => write!(plain, r"\[u{:04X}]", u32::from(c)).expect("a String takes everything"),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_ascii_that_no_reader_takes_for_something_else() {
        let mut page = Document::new("triplock-x", "2026-01-02");
        page.section("NAME");
        page.paragraph("see `~/.x` … it's\n  kept as it is\n.not a request");
        let text = page.finish();
        assert!(text.contains(".TH TRIPLOCK-X 1 2026-01-02 \"triplock "), "{text}");
        assert!(
            text.contains("see \\fB\\(ti/.x\\fR \\[u2026] it\\*(Aqs\n.RS\n.nf\nkept as it is\n.fi\n.RE\n\\&.not"),
            "{text}"
        );
        assert_eq!(text.matches(".ie ").count(), 1, "{text}");
    }
}
