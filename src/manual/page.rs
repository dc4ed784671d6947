//! The page of one command: its sections, in the order of man-pages(7).

use std::fmt::Write as _;

use clap::{Arg, Command};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, italic, roman},
};

use super::{Page, document::Document, more, verbatim::Verbatim};
use crate::{cli::Cli, exit::ExitCode};

/// How a help text begins the paragraph about its exit codes.
const EXIT: [&str; 2] = ["Exit code: ", "Exit codes: "];

/// A command that has a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    command: &'a Command,
    parent: Option<&'a Command>,
}

impl<'a> Subject<'a> {
    pub(super) fn whole(command: &'a Command) -> Self {
        Self { command, parent: None }
    }

    /// Its subcommands that are for people.
    pub(super) fn parts(self) -> Vec<Self> {
        let shown = self.command.get_subcommands().filter(|part| !part.is_hide_set());
        shown.map(|command| Self { command, parent: Some(self.command) }).collect()
    }

    pub(super) fn part(self, word: &str) -> Option<Self> {
        self.parts().into_iter().find(|part| part.command.get_name() == word)
    }

    /// As in `triplock-trip-add`.
    fn name(self) -> &'a str {
        self.command.get_display_name().unwrap_or_else(|| self.command.get_name())
    }

    pub(super) fn page(self, date: &str) -> Page {
        let mut page = Document::new(self.name(), date);
        let help = self.command.clone().render_help().to_string();
        // What takes no --help from clap does not have its options understood by clap either.
        let verbatim = self.command.is_disable_help_flag_set().then(|| Verbatim::parse(&help));
        self.write_name(&mut page);
        self.write_synopsis(&mut page, verbatim.as_ref());
        self.write_description(&mut page, verbatim.as_ref());
        self.write_options(&mut page, verbatim.as_ref());
        self.write_subcommands(&mut page);
        self.write_exit_status(&mut page, verbatim.as_ref());
        self.write_environment(&mut page);
        self.write_files(&mut page);
        self.write_examples(&mut page);
        self.write_see_also(&mut page);
        Page { file: format!("{}.1", self.name()), text: page.finish() }
    }

    fn write_name(self, page: &mut Document) {
        let about = self.command.get_about().map(ToString::to_string).unwrap_or_default();
        page.section("NAME");
        page.add(Roff::new().text([roman(format!("{} - {about}", self.name()))]));
    }

    fn write_synopsis(self, page: &mut Document, verbatim: Option<&Verbatim>) {
        page.section("SYNOPSIS");
        let usage = self.command.clone().render_usage().to_string();
        let lines = match verbatim {
            Some(verbatim) => verbatim.usage.clone(),
            None => usage.trim_start_matches("Usage:").lines().map(str::trim).collect(),
        };
        page.lines(lines.into_iter().map(in_types));
    }

    fn write_description(self, page: &mut Document, verbatim: Option<&Verbatim>) {
        page.section("DESCRIPTION");
        match verbatim {
            Some(verbatim) => {
                verbatim.description.iter().filter(|text| !is_exit(text)).for_each(|text| page.paragraph(text));
            }
            None => {
                if let Some(about) = self.command.get_long_about().or_else(|| self.command.get_about()) {
                    page.paragraph(&format!("{about}."));
                }
            }
        }
        for text in more::description(self.name()) {
            page.paragraph(text);
        }
        let (after, _) = self.after_help();
        if !after.is_empty() {
            page.paragraph(&after);
        }
    }

    /// What stands below the options of `--help`: about anything, and about exit codes.
    fn after_help(self) -> (String, Option<String>) {
        let text = self.command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let (exit, other): (Vec<_>, Vec<_>) = text.lines().partition(|line| is_exit(line));
        (other.join("\n"), exit.first().map(|line| (*line).to_owned()))
    }

    fn write_options(self, page: &mut Document, verbatim: Option<&Verbatim>) {
        if let Some(verbatim) = verbatim {
            page.section("OPTIONS");
            return verbatim.write_options(page);
        }
        page.section("OPTIONS");
        let own: Vec<_> = self.command.get_arguments().filter(|arg| !arg.is_hide_set() && self.is_own(arg)).collect();
        let mut headings = vec![None];
        for arg in &own {
            if !headings.contains(&arg.get_help_heading()) {
                headings.push(arg.get_help_heading());
            }
        }
        for heading in headings {
            if let Some(heading) = heading {
                page.subsection(heading);
            }
            if own.iter().any(|arg| arg.get_help_heading() == heading) {
                self.write_options_under(page, heading);
            }
        }
        if self.parent.is_some() {
            page.subsection("Global options");
            let mut roff = Roff::new();
            let mut names = Vec::new();
            let global = self.command.get_arguments().filter(|arg| !self.is_own(arg));
            for (i, long) in global.filter_map(Arg::get_long).enumerate() {
                names.extend([roman(if i == 0 { "" } else { ", " }), bold(format!("--{long}"))]);
            }
            names.extend([roman(": as of every command; see "), bold("triplock"), roman("(1).")]);
            roff.text(names);
            page.add(&roff);
        }
    }

    /// Whether the option is told on this page. What every command has is told once, on the program's own.
    fn is_own(self, arg: &Arg) -> bool {
        self.parent.is_none() || !(arg.is_global_set() || arg.get_id() == "help")
    }

    fn write_options_under(self, page: &mut Document, heading: Option<&str>) {
        // clap_mangen writes every option that is not hidden, each heading as a section: so it is given one at a time.
        let command = self.command.clone().mut_args(|arg| {
            let shown = self.is_own(&arg) && !arg.is_hide_set() && arg.get_help_heading() == heading;
            if shown { with_values(arg) } else { arg.hide(true) }.help_heading(None::<&str>)
        });
        let mut rendered = Vec::new();
        Man::new(command).render_options_section(&mut rendered).expect("a Vec takes everything");
        let rendered = String::from_utf8(rendered).expect("help texts are UTF-8");
        page.add_text(&rendered.replacen(".SH OPTIONS\n", "", 1));
    }

    fn write_subcommands(self, page: &mut Document) {
        let parts = self.parts();
        if parts.is_empty() {
            return;
        }
        page.section("COMMANDS");
        for part in parts {
            let about = part.command.get_about().map(ToString::to_string).unwrap_or_default();
            page.item(reference(part.name()), &about);
        }
    }

    fn write_exit_status(self, page: &mut Document, verbatim: Option<&Verbatim>) {
        page.section("EXIT STATUS");
        let of_help = verbatim.and_then(|verbatim| verbatim.description.iter().find(|text| is_exit(text)).copied());
        let own = of_help.map(str::to_owned).or(self.after_help().1);
        match own {
            Some(text) if self.parent.is_some() => {
                let text = EXIT.iter().fold(&*text, |text, start| text.trim_start_matches(start));
                page.paragraph(&sentence(text));
            }
            _ => {
                // A meaning that begins with the names of commands is theirs alone, and they say it themselves.
                let of_some = |code: &ExitCode| {
                    code.meaning().split_once(": ").is_some_and(|(names, _)| names.split(", ").all(Cli::has))
                };
                for code in ExitCode::ALL.into_iter().filter(|code| self.parent.is_none() || !of_some(code)) {
                    page.item(vec![bold(code.code().to_string())], code.meaning());
                }
            }
        }
    }

    fn write_environment(self, page: &mut Document) {
        let (variables, of_job) = (more::environment(self.name()), more::job_environment(self.name()));
        if variables.is_empty() {
            return;
        }
        page.section("ENVIRONMENT");
        for variable in variables {
            page.item(vec![bold(variable.name)], variable.meaning);
        }
        if !of_job.is_empty() {
            page.subsection("What a job finds in its environment");
        }
        for variable in of_job {
            page.item(vec![bold(variable.name)], variable.meaning);
        }
    }

    fn write_files(self, page: &mut Document) {
        let files = more::files(self.name());
        if !files.is_empty() {
            page.section("FILES");
        }
        for file in files {
            page.item(vec![italic(file.name)], file.meaning);
        }
    }

    fn write_examples(self, page: &mut Document) {
        let examples = more::examples(self.name());
        if !examples.is_empty() {
            page.section("EXAMPLES");
        }
        for example in examples {
            page.example(example.name, example.meaning);
        }
    }

    fn write_see_also(self, page: &mut Document) {
        page.section("SEE ALSO");
        let parent = self.parent.map(|command| Self { command, parent: None });
        let around = parent.into_iter().chain(self.parts()).map(|subject| reference(subject.name()));
        let further = more::see_also(self.name()).map(|name| {
            let (name, section) = name.split_at(name.find('(').unwrap_or(name.len()));
            vec![bold(name), roman(section)]
        });
        let all: Vec<_> = around.chain(further).collect();
        page.add(Roff::new().text(all.join(&roman(", "))));
    }
}

/// With its possible values in the text, as `--help` has them: a list of its own for each would fill the page.
fn with_values(arg: Arg) -> Arg {
    let values: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if values.is_empty() || arg.is_hide_possible_values_set() {
        return arg;
    }
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let mut text = format!("{help} [possible values: {}]", values.join(", "));
    for value in arg.get_possible_values() {
        if let Some(meaning) = value.get_help() {
            write!(text, "\n\n{}: {meaning}", value.get_name()).expect("a String takes everything");
        }
    }
    arg.help(text).hide_possible_values(true)
}

fn is_exit(text: &str) -> bool {
    EXIT.iter().any(|start| text.starts_with(start))
}

/// With a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str().trim_end_matches('.'))
}

/// As in **triplock-run**(1).
fn reference(name: &str) -> Vec<Inline> {
    vec![bold(name), roman("(1)")]
}

/// A line of usage: what is typed as it stands in bold, what stands for something else in italics.
fn in_types(usage: &str) -> Vec<Inline> {
    let mut words = Vec::new();
    for word in usage.split(' ') {
        if !words.is_empty() {
            words.push(roman(" "));
        }
        let typed = word.starts_with('-') || word.bytes().all(|b| b.is_ascii_lowercase());
        let placeholder = word.contains('<') || word.contains('[');
        words.push(match (typed, placeholder) {
            (true, _) => bold(word),
            (false, true) => italic(word),
            (false, false) => roman(word),
        });
    }
    words
}
