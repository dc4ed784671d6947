//! `run` and `flock` beside what a crontab is made of today: flock(1), timeout(1), chronic(1).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    drive::{Contestant, in_turn},
    report::{Figures, Part, Target},
    site::Site,
};

/// The two builds that everything is measured with.
const BUILDS: [&str; 2] = ["static dist", "default release"];

/// Where the locks are: flock(1)'s file and triplock's state directory, on one file system.
pub(crate) struct Desk<'a> {
    site: &'a Site,
    lock: PathBuf,
    state: PathBuf,
}

impl<'a> Desk<'a> {
    pub(crate) fn new(site: &'a Site) -> Self {
        let lock = site.directory("flock").join("lock");
        Self { site, lock, state: site.directory("jobs") }
    }

    /// A line as in a crontab: the program, and its words; `FILE` is the lock file.
    pub(crate) fn command(&self, program: &Path, line: &str) -> Command {
        let mut command = Command::new(program);
        for word in line.split_whitespace() {
            match word {
                "FILE" => command.arg(&self.lock),
                word => command.arg(word),
            };
        }
        command.env("TRIPLOCK_STATE_DIR", &self.state);
        command
    }

    pub(crate) fn theirs(&self, line: &str) -> Command {
        let (program, words) = line.split_once(' ').unwrap_or((line, ""));
        self.command(Path::new(program), words)
    }

    pub(crate) fn ours(&self, build: &str, line: &str) -> Command {
        let program = if build == BUILDS[0] { self.site.product() } else { self.site.default_build() };
        self.command(program, line)
    }

    /// How many runs of that job ended, and how many of them well, says the last line of its ledger.
    fn recorded(&self, job: &str) -> (u64, u64) {
        let ledger = fs::read_to_string(self.state.join(format!("jobs/{job}.jsonl"))).expect("the job's ledger");
        let last: serde_json::Value = serde_json::from_str(ledger.lines().last().expect("a line")).expect("JSON");
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
        (number(&last["totals"]["last_run"]), number(&last["totals"]["counts"]["succeeded"]))
    }
}

/// One line of ours, each build of it beside lines of others.
struct Race {
    ours: &'static str,
    /// The job that it runs.
    job: Option<&'static str>,
    theirs: &'static [(&'static str, Option<f64>)],
}

const FAST: [Race; 3] = [
    Race { ours: "flock -n FILE true", job: None, theirs: &[("flock -n FILE true", Some(0.7))] },
    Race {
        ours: "run plain -- true",
        job: Some("plain"),
        theirs: &[("flock -n FILE true", Some(1.0)), ("flock -n FILE timeout 60 true", Some(0.5)), ("true", None)],
    },
    Race {
        ours: "run limited --time-limit 60 -- true",
        job: Some("limited"),
        theirs: &[("flock -n FILE true", Some(1.0)), ("flock -n FILE timeout 60 true", Some(0.5))],
    },
];

const SLOW: [Race; 2] = [
    Race {
        ours: "run silent --output on-failure -- true",
        job: Some("silent"),
        theirs: &[("chronic true", Some(0.05)), ("flock -n FILE true", None)],
    },
    Race {
        ours: "run all --time-limit 60 --output on-failure -- true",
        job: Some("all"),
        theirs: &[("flock -n FILE timeout 60 chronic true", None)],
    },
];

const ROUNDS: usize = 7;

pub(crate) fn measure(site: &Site) -> Part {
    let mut part = Part::new(
        "jobs",
        "p50 of spawn + wait, one at a time, of a crontab's line: `run` writes and syncs the start and the end of the \
         command to its ledger, the others write nothing. FILE and the state directory are on one file system; 7 rounds \
         in turn",
    );
    let desk = Desk::new(site);
    race(&mut part, &desk, &FAST, 120);
    if exists("chronic") {
        race(&mut part, &desk, &SLOW, 12);
    } else {
        part.note("**Not measured:** chronic is not installed".to_owned());
    }
    part
}

fn exists(program: &str) -> bool {
    Command::new(program).arg("true").stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn race(part: &mut Part, desk: &Desk<'_>, races: &[Race], turns: usize) {
    let mut contestants: Vec<Contestant<'_>> = Vec::new();
    for Race { ours, theirs, .. } in races {
        for build in BUILDS {
            contestants.push((format!("{build} {ours}"), Box::new(move || desk.ours(build, ours))));
        }
        for (line, _) in *theirs {
            if contestants.iter().all(|(name, _)| name != line) {
                contestants.push(((*line).to_owned(), Box::new(move || desk.theirs(line))));
            }
        }
    }
    let p50 = in_turn(ROUNDS, turns, &contestants);
    let of = |name: &str| -> &Figures {
        let at = contestants.iter().position(|(contestant, _)| contestant == name).expect("it was measured");
        &p50[at]
    };
    for Race { ours, theirs, job } in races {
        for build in BUILDS {
            for (line, bound) in *theirs {
                // What was promised, was promised of the product as it is packaged.
                let target = match bound {
                    Some(bound) if build == BUILDS[0] => Target::at_most(*bound),
                    _ => Target::none(),
                };
                part.row(
                    &format!("{build}: triplock {ours} / {line}"),
                    of(&format!("{build} {ours}")),
                    of(line),
                    target,
                );
            }
        }
        if let Some(job) = job {
            let told = (BUILDS.len() * ROUNDS * turns) as u64;
            assert_eq!(desk.recorded(job), (told, told), "job {job}: runs in the ledger, and those that ended well");
        }
    }
    part.note(format!("Each job's ledger holds exactly its {} runs", BUILDS.len() * ROUNDS * turns));
}
