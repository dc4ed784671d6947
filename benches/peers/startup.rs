//! Start-up: what a process costs before it does anything.

use std::{path::Path, process::Command};

use crate::{
    drive::{Contestant, in_turn},
    report::{Part, Target},
    site::Site,
};

const ROUNDS: usize = 5;
const SPAWNS: usize = 250;

pub(crate) fn measure(site: &Site) -> Part {
    let mut part = Part::new("start-up", "p50 of spawn + wait, one at a time, relative to coreutils `true` = 1");
    let empty = site.directory("start-up");
    let programs = [
        // With an argument it would set up its locale first, which costs as much again.
        ("true", Path::new("true"), "", Target::none()),
        ("static dist build: triplock --version", site.product(), "--version", Target::at_most(0.6)),
        ("default release build: triplock --version", site.default_build(), "--version", Target::at_most(1.6)),
        ("static dist build: triplock trip list, nothing there", site.product(), "trip list", Target::none()),
        ("default release build: triplock trip list, nothing there", site.default_build(), "trip list", Target::none()),
    ];
    let empty = &empty;
    let contestants: Vec<Contestant<'_>> = programs
        .iter()
        .map(|(what, program, arguments, _)| {
            let command = move || {
                let mut command = Command::new(program);
                command.args(arguments.split_whitespace()).env("TRIPLOCK_STATE_DIR", empty);
                command
            };
            ((*what).to_owned(), Box::new(command) as Box<dyn Fn() -> Command + '_>)
        })
        .collect();
    let p50 = in_turn(ROUNDS, SPAWNS, &contestants);
    for ((what, _, _, target), ours) in programs.iter().zip(&p50).skip(1) {
        part.row(what, ours, &p50[0], *target);
    }
    part
}
