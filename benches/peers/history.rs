//! What looking costs by how much there is to look at.

use std::process::Command;

use crate::{
    drive::{Contestant, in_turn, output, run},
    report::{Part, Target},
    site::Site,
};

const RUNS: [usize; 2] = [10, 10_000];

pub(crate) fn measure(site: &Site) -> Part {
    let about = "p50 of spawn + wait with 10,000 real runs in the job's ledger beside one with 10, a state directory each; \
                 5 rounds of 100 in turn";
    let mut part = Part::new("history", about);
    let states = RUNS.map(|runs| site.directory(&format!("history-{runs}")));
    let command = |at: usize, words: &[&str]| {
        let mut command = Command::new(site.product());
        command.args(words).env("TRIPLOCK_STATE_DIR", &states[at]);
        command
    };
    for (at, runs) in RUNS.iter().enumerate() {
        for _ in 0..*runs {
            run(&mut command(at, &["run", "job", "--", "true"]));
        }
        let shown = output(&mut command(at, &["history", "job", "-n", "all", "--json"]));
        assert_eq!(shown.lines().count(), *runs, "not every run is in the history");
    }
    let bytes = std::fs::read_dir(states[1].join("jobs")).expect("the jobs' files").flatten();
    let bytes: u64 = bytes.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum();
    part.note(format!("10,000 runs took {bytes} bytes"));

    let looks: [(&str, &[&str]); 4] = [
        ("history -n 20", &["history", "-n", "20"]),
        ("history job -n 20", &["history", "job", "-n", "20"]),
        ("status", &["status"]),
        ("status job", &["status", "job"]),
    ];
    let contestants: Vec<Contestant<'_>> = looks
        .iter()
        .flat_map(|(name, words)| {
            (0..RUNS.len()).map(move |at| {
                let make: Box<dyn Fn() -> Command> = Box::new(move || command(at, words));
                (format!("{name} of {}", RUNS[at]), make)
            })
        })
        .collect();
    let p50 = in_turn(5, 100, &contestants);
    for (at, (name, _)) in looks.iter().enumerate() {
        let [few, many] = [&p50[2 * at], &p50[2 * at + 1]];
        part.row(&format!("{name}: 10,000 runs / 10"), many, few, Target::at_most(2.0));
    }
    part
}
