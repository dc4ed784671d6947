//! Start-up: what a process costs before it does anything.

use std::{path::Path, process::Command, time::Duration};

use crate::{
    drive::{median, run},
    report::{Figures, Part, Target},
    site::Site,
};

const ROUNDS: usize = 5;
const SPAWNS: usize = 250;

pub(crate) fn measure(site: &Site) -> Part {
    let mut part = Part::new("start-up", "p50 of spawn + wait, one at a time, relative to coreutils `true` = 1");
    let empty = site.directory("start-up");
    let programs = [
        ("static dist build: triplock --version", site.product(), "--version", Target::at_most(0.6)),
        ("default release build: triplock --version", site.default_build(), "--version", Target::at_most(1.6)),
        ("static dist build: triplock trip list, nothing there", site.product(), "trip list", Target::none()),
        ("default release build: triplock trip list, nothing there", site.default_build(), "trip list", Target::none()),
    ];
    // With an argument it would set up its locale first, which costs as much again.
    let reference = (Path::new("true"), "");
    let commands: Vec<(&Path, &str)> = std::iter::once(reference)
        .chain(programs.iter().map(|(_, program, arguments, _)| (*program, *arguments)))
        .collect();

    // Turn by turn, so that whatever else the machine does hits all alike.
    let mut p50 = vec![Vec::new(); commands.len()];
    for _ in 0..ROUNDS {
        let mut took = vec![Vec::<Duration>::new(); commands.len()];
        for _ in 0..SPAWNS {
            for ((program, arguments), took) in commands.iter().zip(&mut took) {
                let mut command = Command::new(program);
                command.args(arguments.split_whitespace()).env("TRIPLOCK_STATE_DIR", &empty);
                took.push(run(&mut command));
            }
        }
        for (took, p50) in took.iter().zip(&mut p50) {
            p50.push(median(took).as_secs_f64() * 1e6);
        }
    }
    let reference = Figures::new(&p50[0], "µs");
    for ((what, _, _, target), p50) in programs.iter().zip(&p50[1..]) {
        part.row(what, &Figures::new(p50, "µs"), &reference, *target);
    }
    part
}
