//! The program of a job, for whoever looks whether it is there.

use super::Definition;

/// What a shell does itself.
const BUILTIN: [&str; 44] = [
    ".", ":", "[", "alias", "bg", "break", "case", "cd", "command", "continue", "echo", "eval", "exec", "exit",
    "export", "false", "fg", "for", "getopts", "hash", "if", "jobs", "kill", "local", "printf", "pwd", "read",
    "readonly", "return", "set", "shift", "source", "test", "time", "times", "trap", "true", "type", "ulimit", "umask",
    "unset", "until", "wait", "while",
];

impl Definition {
    /// The program that it starts, where that can be told.
    pub(crate) fn program(&self) -> Option<String> {
        let first = match self.script() {
            // Its first word, if it is plain.
            Some(text) => {
                text.split_ascii_whitespace().next().filter(|word| is_plain(word) && !BUILTIN.contains(word))?
            }
            None => self.command.first()?.to_str()?,
        };
        Some(first.to_owned())
    }

    /// Whether its command is a text for the shell, not a list.
    pub(crate) fn is_script(&self) -> bool {
        self.script().is_some()
    }

    /// As a string of a job file becomes.
    fn script(&self) -> Option<&str> {
        match &self.command[..] {
            [shell, option, text] if shell == "/bin/sh" && option == "-c" => text.to_str(),
            _ => None,
        }
    }
}

fn is_plain(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_alphanumeric() || "/._+-".contains(c))
}
