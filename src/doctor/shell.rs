//! Finds the programs that concern us in a shell's command line, with the environment that each would get.
//!
//! No shell is asked: nothing found on the machine is executed. What only a shell could tell (`$(…)`, an unknown variable)
//! makes the word uncertain, and nothing is said about an uncertain word.

use std::collections::BTreeMap;

pub(super) type Variables = BTreeMap<String, String>;

/// `sh -c "sh -c …"` goes no deeper.
const MOST_DEPTH: usize = 8;

/// So many are looked for in a command line.
const MOST_CALLS: usize = 1000;

/// `nice env timeout …`: nobody writes more before a program.
const MOST_WRAPPERS: usize = 16;

/// A triplock or flock that a command line starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// As it is written.
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Variables,
    /// As whom, when the command line says so (sudo).
    pub(super) user: Option<String>,
    /// Every word is known.
    pub(super) is_certain: bool,
}

/// A word, and whether it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) is_uncertain: bool,
}

/// What a shell with that environment would start of ours.
pub(super) fn calls(text: &str, environment: &Variables) -> Vec<Call> {
    let mut found = Vec::new();
    script(text, environment, None, 0, &mut found);
    found
}

/// The same of a command whose words are known.
pub(super) fn calls_of(words: &[Word], environment: &Variables) -> Vec<Call> {
    let mut found = Vec::new();
    unwrap(words, environment.clone(), None, 0, &mut found);
    found
}

fn script(text: &str, environment: &Variables, user: Option<&str>, depth: usize, found: &mut Vec<Call>) {
    if depth > MOST_DEPTH {
        return;
    }
    let mut shell = Shell { environment: environment.clone(), own: Variables::new() };
    let mut lexer = Lexer { rest: text };
    let mut words = Vec::new();
    loop {
        match lexer.next(&shell) {
            Some(Token::Word(word)) => words.push(word),
            Some(Token::Redirection) => {
                // Its file is no word of the command.
                let _ = lexer.next(&shell);
            }
            end => {
                shell.command(std::mem::take(&mut words), user, depth, found);
                if end.is_none() {
                    return;
                }
            }
        }
    }
}

/// A shell between two commands.
struct Shell {
    environment: Variables,
    /// Variables that are not exported.
    own: Variables,
}

impl Shell {
    fn get(&self, name: &str) -> Option<&String> {
        self.own.get(name).or_else(|| self.environment.get(name))
    }

    fn command(&mut self, words: Vec<Word>, user: Option<&str>, depth: usize, found: &mut Vec<Call>) {
        const KEYWORDS: [&str; 11] = ["if", "then", "else", "elif", "do", "while", "until", "!", "{", "time", "exec"];
        let mut words: std::collections::VecDeque<_> = words.into();
        while words.front().is_some_and(|word| KEYWORDS.contains(&word.text.as_str())) {
            words.pop_front();
        }
        let mut set = Vec::new();
        while let Some((name, value)) = words.front().and_then(|word| assignment(&word.text)) {
            set.push((name.to_owned(), value.to_owned()));
            words.pop_front();
        }
        match words.front().map(|word| word.text.as_str()) {
            None => {
                for (name, value) in set {
                    let to = if self.environment.contains_key(&name) { &mut self.environment } else { &mut self.own };
                    to.insert(name, value);
                }
            }
            Some("export") => {
                for word in words.iter().skip(1) {
                    if let Some((name, value)) = assignment(&word.text) {
                        self.environment.insert(name.to_owned(), value.to_owned());
                    } else if let Some(value) = self.own.remove(&word.text) {
                        self.environment.insert(word.text.clone(), value);
                    }
                }
            }
            Some("unset") => {
                for word in &words {
                    self.environment.remove(&word.text);
                    self.own.remove(&word.text);
                }
            }
            Some(_) => {
                let mut environment = self.environment.clone();
                environment.extend(set);
                unwrap(words.make_contiguous(), environment, user.map(str::to_owned), depth, found);
            }
        }
    }
}

/// Takes off what stands before a program and starts it: `env X=y`, `nice`, `sudo -u`, `sh -c` …
fn unwrap(words: &[Word], mut environment: Variables, mut user: Option<String>, depth: usize, found: &mut Vec<Call>) {
    const WRAPPERS: [&str; 24] = [
        "chronic",
        "chrt",
        "command",
        "cronic",
        "doas",
        "env",
        "exec",
        "ionice",
        "nice",
        "nohup",
        "runuser",
        "setpriv",
        "setsid",
        "stdbuf",
        "sudo",
        "systemd-cat",
        "systemd-inhibit",
        "systemd-run",
        "taskset",
        "time",
        "timeout",
        "unshare",
        "prlimit",
        "numactl",
    ];
    let mut at = 0;
    for _ in 0..MOST_WRAPPERS {
        let Some(first) = words.get(at) else { return };
        if first.is_uncertain {
            return;
        }
        let name = name_of(&first.text);
        let rest = &words[at + 1..];
        match name {
            "triplock" | "flock" => {
                if found.len() >= MOST_CALLS {
                    return;
                }
                found.push(Call {
                    program: first.text.clone(),
                    arguments: rest.iter().map(|word| word.text.clone()).collect(),
                    environment: environment.clone(),
                    user: user.clone(),
                    is_certain: rest.iter().all(|word| !word.is_uncertain),
                });
                if name == "triplock" {
                    return;
                }
                // What flock starts may be ours as well.
                let command = rest.iter().position(|word| is_of_interest(&word.text));
                if let Some(text) = rest.iter().position(|word| word.text == "-c").and_then(|c| rest.get(c + 1)) {
                    return script(&text.text, &environment, user.as_deref(), depth + 1, found);
                }
                let Some(next) = command else { return };
                at += 1 + next;
            }
            "sh" | "bash" | "dash" | "ash" | "ksh" | "zsh" => {
                let is_c =
                    |word: &Word| word.text.starts_with('-') && !word.text.starts_with("--") && word.text.contains('c');
                let text = rest.iter().position(is_c).and_then(|c| rest.get(c + 1));
                if let Some(text) = text.filter(|text| !text.is_uncertain) {
                    script(&text.text, &environment, user.as_deref(), depth + 1, found);
                }
                return;
            }
            "su" | "runuser" if user_of(rest).is_none() && su(rest).is_some() => {
                let Some((other, text, is_login)) = su(rest) else { return };
                if is_login {
                    environment.clear();
                }
                environment.remove("HOME");
                return script(text, &environment, Some(other), depth + 1, found);
            }
            name if WRAPPERS.contains(&name) => {
                let Some(next) = rest.iter().position(|word| is_of_interest(&word.text)) else { return };
                let options = &rest[..next];
                if ["sudo", "doas", "runuser"].contains(&name) {
                    // They begin with an environment of their own.
                    environment.retain(|name, _| !name.starts_with("TRIPLOCK_") && !name.starts_with("XDG_"));
                    environment.remove("HOME");
                    user = Some(user_of(options).unwrap_or("root").to_owned());
                }
                wrapped(name, options, &mut environment);
                at += 1 + next;
            }
            _ => return,
        }
    }
}

/// Whom sudo and its kin are told to be: `-u X`, `-nuX`, `--user X`, `--user=X`.
/// As whom `su` and `runuser` start a shell, with which text, and whether as if that user had logged in.
fn su(words: &[Word]) -> Option<(&str, &str, bool)> {
    let (mut user, mut text, mut is_login) = (None, None, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.text.as_str() {
            "-" | "-l" | "--login" => is_login = true,
            "-c" | "--command" | "-lc" => {
                is_login |= word.text == "-lc";
                text = words.next().filter(|text| !text.is_uncertain);
            }
            "-s" | "--shell" | "-g" | "--group" | "-G" | "--supp-group" | "-w" | "--whitelist-environment" => {
                words.next();
            }
            option if option.starts_with('-') => {}
            _ if user.is_none() => user = Some(word),
            // Those of the shell.
            _ => {}
        }
    }
    let user = user.map_or(Some("root"), |word| Some(word.text.as_str()).filter(|_| !word.is_uncertain))?;
    Some((user, &text?.text, is_login))
}

fn user_of(options: &[Word]) -> Option<&str> {
    let mut words = options.iter().map(|word| word.text.as_str());
    while let Some(word) = words.next() {
        if word == "--user" {
            return words.next();
        }
        if let Some(user) = word.strip_prefix("--user=") {
            return Some(user);
        }
        // Of several in one word, only those before it that want no value of their own.
        let short = word.strip_prefix('-').filter(|flags| !flags.starts_with('-'));
        let user = short.and_then(|flags| flags.trim_start_matches(|c| "AbEHikKlnPSs".contains(c)).strip_prefix('u'));
        match user {
            Some("") => return words.next(),
            Some(user) => return Some(user),
            None => {}
        }
    }
    None
}

/// What the words before a wrapped program do to its environment.
fn wrapped(name: &str, options: &[Word], environment: &mut Variables) {
    let mut words = options.iter().map(|word| word.text.as_str());
    while let Some(word) = words.next() {
        match word {
            "-i" | "-" | "--ignore-environment" if name == "env" => environment.clear(),
            "-u" if name == "env" => {
                if let Some(name) = words.next() {
                    environment.remove(name);
                }
            }
            word => {
                if let Some(name) = word.strip_prefix("--unset=") {
                    environment.remove(name);
                } else if let Some((name, value)) = assignment(word) {
                    environment.insert(name.to_owned(), value.to_owned());
                }
            }
        }
    }
}

fn is_of_interest(word: &str) -> bool {
    matches!(
        name_of(word),
        "triplock" | "flock" | "sh" | "bash" | "dash" | "ash" | "ksh" | "zsh" | "env" | "sudo" | "su"
    )
}

pub(super) fn name_of(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// `NAME=value`.
pub(super) fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (begins && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).then_some((name, value))
}

enum Token {
    Word(Word),
    Redirection,
    /// The command ends.
    Operator,
}

struct Lexer<'a> {
    rest: &'a str,
}

impl Lexer<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self, shell: &Shell) -> Option<Token> {
        while self.peek().is_some_and(|c| c == ' ' || c == '\t') {
            self.take();
        }
        match self.peek()? {
            '#' => {
                self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
                self.next(shell)
            }
            c @ ('\n' | ';' | '&' | '|' | '(' | ')') => {
                self.take();
                // `&>` redirects as well.
                if c == '&' && self.peek() == Some('>') {
                    return self.next(shell);
                }
                Some(Token::Operator)
            }
            '<' | '>' => {
                while self.peek().is_some_and(|c| "<>&|-".contains(c)) {
                    self.take();
                }
                Some(Token::Redirection)
            }
            _ => {
                let word = self.word(shell);
                let is_number = !word.text.is_empty() && word.text.bytes().all(|b| b.is_ascii_digit());
                if is_number && self.peek().is_some_and(|c| c == '<' || c == '>') {
                    return self.next(shell);
                }
                Some(Token::Word(word))
            }
        }
    }

    fn word(&mut self, shell: &Shell) -> Word {
        let mut word = Word::default();
        if self.rest.starts_with("~/") || self.rest == "~" {
            self.take();
            word.add(shell.get("HOME"));
        }
        while let Some(c) = self.peek() {
            if " \t\n;&|()<>".contains(c) {
                break;
            }
            self.take();
            match c {
                '\'' => {
                    let end = self.rest.find('\'').unwrap_or(self.rest.len());
                    word.text.push_str(&self.rest[..end]);
                    self.rest = self.rest.get(end + 1..).unwrap_or_default();
                }
                '"' => {
                    while let Some(c) = self.take().filter(|c| *c != '"') {
                        match c {
                            '\\' if self.peek().is_some_and(|c| "\\\"$`\n".contains(c)) => {
                                word.text.extend(self.take());
                            }
                            '$' | '`' => self.expand(c, shell, &mut word),
                            c => word.text.push(c),
                        }
                    }
                }
                // (A backslash and a line end are nothing.)
                '\\' => word.text.extend(self.take().filter(|c| *c != '\n')),
                '$' | '`' => self.expand(c, shell, &mut word),
                c => {
                    // A pattern may mean anything.
                    word.is_uncertain |= c == '*' || c == '?';
                    word.text.push(c);
                }
            }
        }
        word
    }

    fn expand(&mut self, c: char, shell: &Shell, word: &mut Word) {
        if c == '`' {
            let end = self.rest.find('`').map_or(self.rest.len(), |end| end + 1);
            self.rest = &self.rest[end..];
            return word.add(None);
        }
        match self.peek() {
            Some('(') => {
                let mut depth = 0_usize;
                while let Some(c) = self.take() {
                    match c {
                        '(' => depth += 1,
                        ')' if depth == 1 => break,
                        ')' => depth -= 1,
                        _ => {}
                    }
                }
                word.add(None);
            }
            Some('{') => {
                let end = self.rest.find('}').unwrap_or(self.rest.len());
                let name = &self.rest[1..end];
                let value = shell.get(name);
                // `${X:-default}` and its kin are left to the shell.
                word.add(value);
                self.rest = self.rest.get(end + 1..).unwrap_or_default();
            }
            _ => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
                let name = &self.rest[..end];
                self.rest = &self.rest[end..];
                if name.is_empty() { word.text.push('$') } else { word.add(shell.get(name)) }
            }
        }
    }
}

impl Word {
    fn add(&mut self, value: Option<&String>) {
        match value {
            Some(value) => self.text.push_str(value),
            None => self.is_uncertain = true,
        }
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), is_uncertain: false }
    }
}

#[cfg(test)]
mod tests;
