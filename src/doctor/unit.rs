//! What a systemd unit says once its drop-ins are laid over it (systemd.unit(5), systemd.syntax(7), systemd.service(5)).

use std::path::{Path, PathBuf};

use super::shell::{Variables, Word};

/// A unit's settings, in the order in which systemd reads them.
#[derive(Debug, Clone, Default)]
pub(super) struct Unit {
    /// `triplock@nightly.service`
    pub(super) name: String,
    settings: Vec<Setting>,
}

/// One line of one of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    section: String,
    key: String,
    pub(super) value: String,
    pub(super) path: PathBuf,
    pub(super) line: usize,
}

/// What stands behind `%` in a unit.
#[derive(Debug, Clone, Default)]
pub(super) struct Specifiers {
    /// The name that the instance's part of the unit's name begins and ends at.
    pub(super) unit: String,
    pub(super) user: String,
    pub(super) home: String,
    /// Where state directories are.
    pub(super) state: String,
}

impl Unit {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), settings: Vec::new() }
    }

    /// Lays another file over those that were read.
    pub(super) fn read(&mut self, path: &Path, text: &str) {
        let mut section = String::new();
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                name.clone_into(&mut section);
                continue;
            }
            let mut whole = line.to_owned();
            while whole.ends_with('\\') {
                whole.pop();
                whole.push(' ');
                // Comments in between are no end.
                let more = lines.by_ref().map(|(_, line)| line.trim()).find(|line| !line.starts_with(['#', ';']));
                whole.push_str(more.unwrap_or_default());
                if more.is_none() {
                    break;
                }
            }
            let Some((key, value)) = whole.split_once('=') else { continue };
            self.settings.push(Setting {
                section: section.clone(),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
                path: path.to_owned(),
                line: index + 1,
            });
        }
    }

    /// Every value of a setting that may be given again; an empty one forgets those before it.
    pub(super) fn all(&self, section: &str, key: &str) -> Vec<&Setting> {
        let mut found = Vec::new();
        for setting in self.settings.iter().filter(|setting| setting.section == section && setting.key == key) {
            if setting.value.is_empty() {
                found.clear();
            } else {
                found.push(setting);
            }
        }
        found
    }

    /// The last value of a setting; an empty one is none.
    pub(super) fn last(&self, section: &str, key: &str) -> Option<&Setting> {
        let last = self.settings.iter().rfind(|setting| setting.section == section && setting.key == key);
        last.filter(|setting| !setting.value.is_empty())
    }

    /// Whether a switch of the service is on.
    pub(super) fn is_on(&self, key: &str) -> Option<&Setting> {
        self.last("Service", key).filter(|setting| is_true(&setting.value))
    }

    /// The commands of a service.
    pub(super) fn commands(&self) -> impl Iterator<Item = &Setting> {
        const EXEC: [&str; 7] =
            ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"];
        EXEC.into_iter().flat_map(|key| self.all("Service", key))
    }
}

impl Setting {
    pub(super) fn assignment(&self) -> String {
        format!("{}={}", self.key, self.value)
    }
}

/// As systemd reads a boolean.
pub(super) fn is_true(value: &str) -> bool {
    ["1", "yes", "y", "true", "t", "on"].contains(&value.to_ascii_lowercase().as_str())
}

/// Whether a name ends in that kind: `service`, `timer`, `conf` …
pub(super) fn is_a(name: &str, kind: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, suffix)| suffix == kind)
}

/// The part between `@` and the type: `nightly` of `triplock@nightly.service`.
pub(super) fn instance(unit: &str) -> Option<&str> {
    let (stem, _) = unit.rsplit_once('.')?;
    stem.split_once('@').map(|(_, instance)| instance).filter(|instance| !instance.is_empty())
}

impl Specifiers {
    /// Replaces the specifiers; those that only systemd knows make the word uncertain.
    pub(super) fn expand(&self, text: &str) -> Word {
        let mut word = Word::default();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                word.text.push(c);
                continue;
            }
            let stem = self.unit.rsplit_once('.').map_or(self.unit.as_str(), |(stem, _)| stem);
            match rest.next() {
                Some('%') => word.text.push('%'),
                Some('i') => word.text.push_str(instance(&self.unit).unwrap_or_default()),
                Some('I') => match instance(&self.unit) {
                    Some(escaped) if escaped.contains(['-', '\\']) => word.is_uncertain = true,
                    other => word.text.push_str(other.unwrap_or_default()),
                },
                Some('n') => word.text.push_str(&self.unit),
                Some('N') => word.text.push_str(stem),
                Some('p') => word.text.push_str(stem.split('@').next().unwrap_or_default()),
                Some('u') => word.text.push_str(&self.user),
                Some('h') if !self.home.is_empty() => word.text.push_str(&self.home),
                Some('S') => word.text.push_str(&self.state),
                _ => word.is_uncertain = true,
            }
        }
        word
    }

    /// The command lines of an `ExecStart=`, and the characters before the program (`-`, `+`, `@` …).
    pub(super) fn commands(&self, value: &str, environment: &Variables) -> Vec<(String, Vec<Word>)> {
        let mut commands = Vec::new();
        let words = split(value);
        for command in words.split(|word| word == ";") {
            let mut words = Vec::new();
            let mut prefix = String::new();
            for (index, word) in command.iter().enumerate() {
                let mut word = word.as_str();
                if index == 0 {
                    let program = word.trim_start_matches(['-', '@', ':', '+', '!', '|']);
                    word[..word.len() - program.len()].clone_into(&mut prefix);
                    word = program;
                }
                let word = self.expand(word);
                // A variable that stands alone is split into words.
                let alone = word.text.strip_prefix('$').filter(|name| is_name(name));
                if index > 0 && alone.is_some() {
                    match alone.and_then(|name| environment.get(name)) {
                        Some(value) => words.extend(value.split_ascii_whitespace().map(Word::from)),
                        None => words.push(Word { text: String::new(), is_uncertain: true }),
                    }
                } else {
                    words.push(substituted(&word, environment));
                }
            }
            if prefix.contains('@') && words.len() > 1 {
                // The program's own name for itself.
                words.remove(1);
            }
            if !words.is_empty() {
                commands.push((prefix, words));
            }
        }
        commands
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Replaces `${NAME}` and `$$`.
fn substituted(word: &Word, environment: &Variables) -> Word {
    let mut to = Word { text: String::new(), is_uncertain: word.is_uncertain };
    let mut rest = word.text.as_str();
    while let Some(at) = rest.find('$') {
        to.text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let braced = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).filter(|(name, _)| is_name(name));
        if let Some(after) = rest.strip_prefix('$') {
            to.text.push('$');
            rest = after;
        } else if let Some((name, after)) = braced {
            match environment.get(name) {
                Some(value) => to.text.push_str(value),
                None => to.is_uncertain = true,
            }
            rest = after;
        } else {
            to.text.push('$');
        }
    }
    to.text.push_str(rest);
    to
}

/// Splits a value into words, with quotes and backslashes taken off (systemd.syntax(7)).
pub(super) fn split(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match c {
            c if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            '\\' => {
                let word = word.get_or_insert_default();
                match rest.next() {
                    Some('n') => word.push('\n'),
                    Some('t') => word.push('\t'),
                    Some('s') => word.push(' '),
                    Some('x') => {
                        let hex: String = rest.by_ref().take(2).collect();
                        word.extend(u8::from_str_radix(&hex, 16).ok().map(char::from));
                    }
                    other => word.extend(other),
                }
            }
            c if c.is_ascii_whitespace() && quote.is_none() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The assignments of an `EnvironmentFile=`.
pub(super) fn environment_file(text: &str) -> Variables {
    let mut variables = Variables::new();
    for line in text.replace("\\\n", "").lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = value.trim();
        let inner = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        if is_name(name.trim()) {
            variables.insert(name.trim().to_owned(), inner.unwrap_or(value).to_owned());
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(texts: &[&str]) -> Unit {
        let mut unit = Unit::new("a@b.service");
        for text in texts {
            unit.read(Path::new("/u"), text);
        }
        unit
    }

    fn values(settings: &[&Setting]) -> Vec<(String, usize)> {
        settings.iter().map(|setting| (setting.value.clone(), setting.line)).collect()
    }

    #[test]
    fn drop_ins_add_reset_and_replace() {
        let base =
            "[Unit]\nExecStart=/no\n; x\n[Service]\nExecStart=/a \\\n  # within\n  b \\\n c\nUser=u\nEnvironment=A=1\n";
        let first = unit(&[base]);
        assert_eq!(values(&first.all("Service", "ExecStart")), [("/a  b  c".to_owned(), 5)]);
        let over = unit(&[base, "[Service]\nExecStart=\nExecStart=/d\nUser=\nEnvironment=B=2\n"]);
        assert_eq!(values(&over.all("Service", "ExecStart")), [("/d".to_owned(), 3)]);
        assert_eq!(over.all("Service", "Environment").len(), 2);
        assert!(first.last("Service", "User").is_some() && over.last("Service", "User").is_none());
        assert!(unit(&["[Service]\nPrivateTmp=Yes\n"]).is_on("PrivateTmp").is_some());
        assert!(unit(&["[Service]\nPrivateTmp=yes\nPrivateTmp=no\n"]).is_on("PrivateTmp").is_none());
        // Nothing that is no unit does any harm.
        assert_eq!(unit(&["\u{0}[\n=\n[]\nA\\"]).commands().count(), 0);
    }

    #[test]
    fn words_specifiers_and_variables_are_expanded() {
        let specifiers = Specifiers {
            unit: "triplock@a-b.service".to_owned(),
            user: "u".to_owned(),
            home: "/h".to_owned(),
            state: "/var/lib".to_owned(),
        };
        let environment = Variables::from([("X".to_owned(), "1 2".to_owned())]);
        let commands = |value: &str| {
            let commands = specifiers.commands(value, &environment);
            let shown = |(prefix, words): (String, Vec<Word>)| {
                let words: Vec<_> =
                    words.into_iter().map(|word| word.text + if word.is_uncertain { "?" } else { "" }).collect();
                format!("{prefix}{}", words.join("|"))
            };
            commands.into_iter().map(shown).collect::<Vec<_>>()
        };
        assert_eq!(commands("-/t run %i '%n' 100%% %h %S/x"), ["-/t|run|a-b|triplock@a-b.service|100%|/h|/var/lib/x"]);
        assert_eq!(commands("@/t zero one"), ["@/t|one"]);
        assert_eq!(commands("/t \"a b\"\\x41 c\\ d ; +/u"), ["/t|a bA|c d", "+/u"]);
        assert_eq!(commands("/t $X ${X} $$ x$ $Y ${Y} %m"), ["/t|1|2|1 2|$|x$|?|?|?"]);
        assert_eq!(instance("a@.service"), None);
        assert_eq!(
            environment_file("# x\nA=1\nB = \"2 3\"\nC='4'\\\n5\nnothing\n").into_iter().collect::<Vec<_>>(),
            [("A", "1"), ("B", "2 3"), ("C", "'4'5")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }
}
