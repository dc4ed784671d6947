//! What the pages tell that no help text does. A page is named as its file is: `triplock-trip-add`.

/// A variable or a file, and what it is for.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) meaning: &'static str,
}

/// A command line that does what it says.
#[derive(Debug)]
pub(super) struct Example {
    /// The subcommand whose page has it.
    page: &'static str,
    pub(super) what_for: &'static str,
    pub(super) command: &'static str,
}

/// Further paragraphs of a description.
pub(super) fn description(page: &str) -> &'static [&'static str] {
    match page {
        "triplock" => &[
            "Separate processes, started at the same moment from a shell, cron or a systemd timer, share a trip (seats that \
             students book) or a job (a command that must not overlap with itself). Each has one lock. Whoever holds it \
             may change what it protects, and then lets it go. Everything is in one directory: there is no server and no daemon.",
            "Everybody who shares trips or jobs must name the same directory.",
        ],
        _ => &[],
    }
}

const STATE_DIR: Entry = Entry {
    name: "TRIPLOCK_STATE_DIR",
    meaning: "Where state and locks are kept, unless `--state-dir` says it. An absolute path.",
};
const CONFIG: Entry = Entry {
    name: "TRIPLOCK_CONFIG",
    meaning: "The file or directory that job files are read from, instead of the usual places, unless `--config` says it.",
};
const STATE_HOME: Entry = Entry {
    name: "XDG_STATE_HOME",
    meaning: "A user's state directory is `triplock` in this one. Without it: `~/.local/state`, of `$HOME`.",
};
const CONFIG_HOME: Entry = Entry {
    name: "XDG_CONFIG_HOME",
    meaning: "A user's configuration is in `triplock` in this one. Without it: `~/.config`, of `$HOME`.",
};
const NO_COLOR: Entry = Entry { name: "NO_COLOR", meaning: "When set, `--color auto` does not colour." };
const SHELL: Entry = Entry { name: "SHELL", meaning: "What runs the command of `-c`; without it `/bin/sh`." };
const SOURCE_DATE_EPOCH: Entry = Entry {
    name: "SOURCE_DATE_EPOCH",
    meaning: "The date at the foot of the page, in seconds since 1970; without it, the day on which triplock was built or installed.",
};

/// What is read from the environment.
pub(super) fn environment(page: &str) -> &'static [Entry] {
    match page {
        "triplock" => &[STATE_DIR, CONFIG, STATE_HOME, CONFIG_HOME, NO_COLOR],
        "triplock-completions" | "triplock-race" => &[],
        "triplock-man" => &[SOURCE_DATE_EPOCH],
        "triplock-flock" => &[SHELL, STATE_DIR, STATE_HOME, CONFIG_HOME],
        page if page.starts_with("triplock-trip") => &[STATE_DIR, STATE_HOME, CONFIG_HOME],
        "triplock-book" | "triplock-cancel" => &[STATE_DIR, STATE_HOME, CONFIG_HOME],
        "triplock-status" | "triplock-history" => &[STATE_DIR, STATE_HOME, CONFIG_HOME, NO_COLOR],
        _ => &[STATE_DIR, CONFIG, STATE_HOME, CONFIG_HOME],
    }
}

/// What a job finds in its environment.
pub(super) const JOB_ENVIRONMENT: &[Entry] = &[
    Entry { name: "TRIPLOCK_JOB", meaning: "The job's name." },
    Entry { name: "TRIPLOCK_RUN_ID", meaning: "The number of the run, from 1, of the job's own." },
    Entry { name: "TRIPLOCK_ATTEMPT", meaning: "The number of the attempt, from 1: higher after a retry." },
    Entry { name: "TRIPLOCK_FENCE", meaning: "A number that grows with every run and is never given twice." },
    Entry { name: "TRIPLOCK_LOCK_FILE", meaning: "The job's lock." },
    Entry { name: "TRIPLOCK_STATE_DIR", meaning: "The state directory in force." },
    Entry {
        name: "TRIPLOCK_HELD",
        meaning: "`NAME:FENCE ...`: the locks that this run and those around it hold. Asking for one of them is an error, not a deadlock.",
    },
];

const STATE: Entry =
    Entry { name: "/var/lib/triplock", meaning: "The state directory of root, and of the group triplock." };
const OWN_STATE: Entry = Entry { name: "~/.local/state/triplock", meaning: "The state directory of a user." };
const SETTINGS: Entry = Entry {
    name: "/etc/triplock/config.toml, ~/.config/triplock/config.toml",
    meaning: "May name another one: `state_dir = \"/srv/triplock\"`. The user's goes first.",
};
const JOB_FILES: Entry = Entry {
    name: "/etc/triplock/jobs.d/*.toml, ~/.config/triplock/jobs.d/*.toml",
    meaning: "Job files: what `triplock run JOB` runs, and how.",
};
const TRIP: Entry = Entry {
    name: "STATE/trips/TRIP.lock, .jsonl, .json, .sync, .idx",
    meaning: "A trip's lock, its ledger (a line for each booking: the authority), its totals, who syncs, and an index.",
};
const JOB: Entry = Entry {
    name: "STATE/jobs/JOB.lock, .jsonl, .json, .commit, .logs/",
    meaning: "A job's lock, its ledger (every run, and every one that did not happen), the last outcome, the ledger's own lock, \
              and captured output.",
};
const UNITS: Entry = Entry {
    name: "/etc/systemd/system/triplock*@JOB.*.d/",
    meaning: "What is a job's own: its times, its user, the program and the state directory. The units themselves are \
              written beside them unless a package has them; for a user everything is in ~/.config/systemd/user/.",
};
const CRON_D: Entry = Entry {
    name: "/etc/cron.d/triplock-JOB",
    meaning: "The lines of a job; a dot in its name is _d here, and an underscore __. For a user they are in the crontab.",
};

/// Which files are read and written.
pub(super) fn files(page: &str) -> &'static [Entry] {
    match page {
        "triplock" => &[STATE, OWN_STATE, TRIP, JOB, SETTINGS, JOB_FILES],
        "triplock-run" => &[JOB_FILES, JOB],
        "triplock-install" => &[JOB_FILES, UNITS, CRON_D],
        "triplock-uninstall" => &[UNITS, CRON_D],
        "triplock-doctor" => &[STATE, OWN_STATE, SETTINGS, JOB_FILES],
        "triplock-stop" | "triplock-history" | "triplock-logs" => &[JOB],
        "triplock-status" => &[TRIP, JOB],
        "triplock-book" | "triplock-cancel" => &[TRIP],
        page if page.starts_with("triplock-trip") => &[TRIP],
        _ => &[],
    }
}

/// The examples of that page; the program's own has the first of each.
pub(super) fn examples(page: &str) -> impl Iterator<Item = &'static Example> {
    let whole = page == "triplock";
    let wanted = page.strip_prefix("triplock-").unwrap_or(page).to_owned();
    EXAMPLES
        .iter()
        .filter(move |example| if whole { FIRST.contains(&example.what_for) } else { example.page == wanted })
}

/// Which examples the program's own page has.
const FIRST: [&str; 4] = [DUMP, "A trip with 40 seats.", SEAT, "Everything there is, and what runs."];
const DUMP: &str =
    "A nightly dump that cannot overlap, is ended after two hours, and is silent unless it fails; as a crontab has it.";
const SEAT: &str = "One seat for student 7.";

/// For each page.
pub(super) const EXAMPLES: &[Example] = &[
    Example {
        page: "run",
        what_for: DUMP,
        command: "triplock run nightly --time-limit 2h --output on-failure -- /usr/local/bin/dump --all",
    },
    Example { page: "run", what_for: "The same for a job that a job file defines.", command: "triplock run nightly" },
    Example {
        page: "run",
        what_for: "Wait at most a minute for a run that goes on already.",
        command: "triplock run sync -w 60 -- rsync -a /srv/ backup:/srv/",
    },
    Example {
        page: "run",
        what_for: "Three tries, with 10 and then 20 seconds between them.",
        command: "triplock run fetch --retries 2 --retry-delay 10 -- curl -fsS https://example.org/feed",
    },
    Example {
        page: "stop",
        what_for: "End it within half a minute, politely at first.",
        command: "triplock stop nightly -k 30",
    },
    Example { page: "status", what_for: "Everything there is, and what runs.", command: "triplock status" },
    Example {
        page: "status",
        what_for: "Which processes keep the lock of a job that does not start.",
        command: "triplock status --why nightly",
    },
    Example {
        page: "history",
        what_for: "What went wrong in the last week, of all jobs.",
        command: "triplock history --failed --since 7d",
    },
    Example {
        page: "install",
        what_for: "When systemd would start a job, and the units that say so to it.",
        command: "triplock install systemd nightly --system --dry-run",
    },
    Example {
        page: "install",
        what_for: "Have cron start a job at the times that its job file gives.",
        command: "triplock install cron nightly",
    },
    Example {
        page: "uninstall",
        what_for: "Have it started no more; what it recorded stays.",
        command: "triplock uninstall cron nightly",
    },
    Example { page: "logs", what_for: "What the newest run printed.", command: "triplock logs nightly" },
    Example { page: "logs", what_for: "What run 12 prints, until it is over.", command: "triplock logs nightly 12 -f" },
    Example {
        page: "update",
        what_for: "Count, however many do so at once.",
        command: "triplock update counter.json -- jq '.n += 1'",
    },
    Example {
        page: "flock",
        what_for: "The same file, exit codes and messages as flock(1), and the runs are in the history of job sync.",
        command: "triplock flock --job sync -n /run/lock/sync.lock rsync -a /srv/ backup:/srv/",
    },
    Example { page: "doctor", what_for: "What is wrong with this machine's jobs.", command: "triplock doctor" },
    Example {
        page: "doctor",
        what_for: "Whether a job file is right, before it is put in its place.",
        command: "triplock doctor --config ./nightly.toml",
    },
    Example { page: "trip", what_for: "A trip with 40 seats.", command: "triplock trip add berlin --seats 40" },
    Example {
        page: "trip-add",
        what_for: "A trip with 40 seats, made once however often this is repeated.",
        command: "triplock trip add berlin --seats 40 --request-id make-berlin",
    },
    Example { page: "trip-list", what_for: "Every trip, for a program.", command: "triplock trip list --json" },
    Example { page: "trip-show", what_for: "Who has booked.", command: "triplock trip show berlin --bookings" },
    Example { page: "trip-resize", what_for: "A larger bus.", command: "triplock trip resize berlin --seats 52" },
    Example { page: "trip-remove", what_for: "No trip, and no bookings.", command: "triplock trip remove berlin" },
    Example { page: "book", what_for: SEAT, command: "triplock book berlin --student 7" },
    Example {
        page: "book",
        what_for: "Safe to repeat when the answer was lost: the same id gives the first answer.",
        command: "triplock book berlin --student 7 --seats 2 --request-id order-1041",
    },
    Example { page: "book", what_for: "A class in one commit.", command: "triplock book berlin --batch class.jsonl" },
    Example {
        page: "cancel",
        what_for: "The seats of student 7 are free again.",
        command: "triplock cancel berlin --student 7",
    },
    Example { page: "race", what_for: "The race, and the lock that ends it.", command: "triplock race" },
    Example { page: "race", what_for: "Every lock in every place, as a table.", command: "triplock race --matrix" },
    Example {
        page: "completions",
        what_for: "For every new bash of this user.",
        command: "triplock completions bash >~/.local/share/bash-completion/completions/triplock",
    },
    Example {
        page: "man",
        what_for: "Read a page that is not installed.",
        command: "triplock man trip add | man -l -",
    },
    Example {
        page: "man",
        what_for: "Install them all by hand.",
        command: "triplock man --dir /usr/local/share/man/man1",
    },
];

/// Other pages to read, with their sections, besides those of the commands above and below.
pub(super) fn see_also(page: &str) -> &'static [(&'static str, &'static str)] {
    match page {
        "triplock" => &[("flock", "1"), ("flock", "2"), ("crontab", "5"), ("systemd.timer", "5")],
        "triplock-run" => {
            &[("triplock-stop", "1"), ("triplock-history", "1"), ("triplock-logs", "1"), ("timeout", "1")]
        }
        "triplock-stop" => &[("triplock-run", "1"), ("triplock-status", "1")],
        "triplock-status" => &[("triplock-history", "1"), ("triplock-doctor", "1")],
        "triplock-history" => &[("triplock-logs", "1"), ("triplock-status", "1")],
        "triplock-logs" => &[("triplock-history", "1")],
        "triplock-flock" => &[("flock", "1"), ("triplock-run", "1")],
        "triplock-update" => &[("triplock-flock", "1"), ("sponge", "1")],
        "triplock-doctor" => &[("triplock-status", "1")],
        "triplock-book" => &[("triplock-cancel", "1"), ("triplock-trip", "1")],
        "triplock-cancel" => &[("triplock-book", "1"), ("triplock-trip", "1")],
        "triplock-trip-add" => &[("triplock-book", "1")],
        "triplock-man" => &[("man", "1")],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::{cli::Cli, manual::Manual};

    fn pages() -> Vec<String> {
        let pages = Manual::new(Cli::command(), None).pages();
        pages.into_iter().map(|page| page.file.trim_end_matches(".1").to_owned()).collect()
    }

    #[test]
    fn every_page_has_an_example_and_every_example_a_page() {
        let pages = pages();
        for page in &pages {
            assert!(examples(page).next().is_some(), "no example on the page of {page}");
        }
        for Example { page, what_for, .. } in EXAMPLES {
            assert!(pages.contains(&format!("triplock-{page}")), "no page triplock-{page} for: {what_for}");
        }
        assert_eq!(examples("triplock").count(), FIRST.len());
    }

    #[test]
    fn every_example_is_a_command_line_that_triplock_takes() {
        for Example { page, command, .. } in EXAMPLES {
            // As the shell reads it, up to a pipe or a redirection.
            let line = command.split(['>', '|']).next().unwrap();
            let script = format!("triplock() {{ printf '%s\\n' \"$@\"; }}\n{line}");
            let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert!(shell.status.success(), "{command}");
            let said = String::from_utf8(shell.stdout).unwrap();
            let words: Vec<_> = std::iter::once("triplock").chain(said.lines()).collect();
            let parsed = Cli::try_parse_from(&words);
            assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
            assert!(words[1..].join("-").starts_with(page), "{command} on the page of {page}");
        }
    }

    #[test]
    fn every_page_that_is_referred_to_is_there() {
        let pages = pages();
        for page in &pages {
            for (name, _) in see_also(page).iter().filter(|(name, _)| name.starts_with("triplock")) {
                assert!(pages.iter().any(|page| page == name), "{page} refers to {name}");
            }
        }
    }

    #[test]
    fn the_environment_of_a_job_is_what_the_documentation_says() {
        let documented = include_str!("../../docs/jobs.md");
        for Entry { name, .. } in JOB_ENVIRONMENT {
            assert!(documented.contains(&format!("`{name}`")), "docs/jobs.md lacks {name}");
        }
    }
}
