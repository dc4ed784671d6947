//! Where the time of `run` and `flock` goes, by system call.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

use crate::{drive::run, jobs::Desk, report::Part, site::Site};

/// What strace counted of one system call.
#[derive(Default, Clone, Copy)]
struct Call {
    calls: u64,
    seconds: f64,
}

const RUNS: u32 = 50;

pub(crate) fn measure(site: &Site) -> Part {
    let mut part = Part::new(
        "calls",
        "System calls of the wrapper itself, without those of its command, counted by strace in 50 processes: calls and \
         time a process. strace stops the process at each call, which adds some tens of µs to the cheapest, so read the \
         counts of those and the times of the dear ones; what waits for the command contains it",
    );
    let desk = Desk::new(site);
    let traced: [(&str, Command); 4] = [
        ("`triplock run J -- true`", desk.command(site.product(), "run traced -- true")),
        (
            "`triplock run J --time-limit 60 --output on-failure -- true`",
            desk.command(site.product(), "run all --time-limit 60 --output on-failure -- true"),
        ),
        ("`triplock flock -n F true`", desk.command(site.product(), "flock -n FILE true")),
        ("`flock -n F true` of util-linux", desk.theirs("flock -n FILE true")),
    ];
    for (what, mut command) in traced {
        // The files are there, as they are at every run but the first.
        run(&mut command);
        match trace(site, &command) {
            Ok(calls) => {
                part.table(
                    &titled(what, &calls, page_faults(&command)),
                    &["system call", "calls", "µs", "share"],
                    &rows(&calls),
                );
            }
            Err(why) => part.note(format!("**Not measured:** {what}: {why}")),
        }
    }
    part
}

/// All calls of so many processes in turn.
fn trace(site: &Site, command: &Command) -> Result<BTreeMap<String, Call>, String> {
    let summary = site.directory("strace").join("summary");
    let mut calls = BTreeMap::<String, Call>::new();
    for _ in 0..RUNS {
        let mut strace = Command::new("strace");
        strace.args(["-c", "-w", "-U", "name,calls,total-time", "-o"]).arg(&summary).arg(command.get_program());
        strace.args(command.get_args());
        strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let status = strace.stdin(Stdio::null()).stdout(Stdio::null()).status().map_err(|e| format!("strace: {e}"))?;
        if !status.success() {
            return Err(format!("strace ended with {status}; it may not trace here, or does not know -U"));
        }
        let text = std::fs::read_to_string(&summary).map_err(|e| e.to_string())?;
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [name, count, seconds] = words[..] else { continue };
            let (Ok(count), Ok(seconds)) = (count.parse::<u64>(), seconds.parse::<f64>()) else { continue };
            if name != "total" {
                let call = calls.entry(name.to_owned()).or_default();
                call.calls += count;
                call.seconds += seconds;
            }
        }
    }
    if calls.is_empty() { Err("strace told nothing".to_owned()) } else { Ok(calls) }
}

/// Of the wrapper and its command, as GNU time tells them.
fn page_faults(command: &Command) -> Option<u64> {
    let mut time = Command::new("time");
    time.args(["-f", "%R"]).arg(command.get_program()).args(command.get_args());
    time.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = time.stdin(Stdio::null()).output().ok()?;
    String::from_utf8(output.stderr).ok()?.trim().parse().ok()
}

fn titled(what: &str, calls: &BTreeMap<String, Call>, faults: Option<u64>) -> String {
    let count: u64 = calls.values().map(|call| call.calls).sum();
    let seconds: f64 = calls.values().map(|call| call.seconds).sum();
    let faults = faults.map_or_else(String::new, |faults| format!(", {faults} page faults with its command's"));
    format!("{what}: {} calls, {:.0} µs in them{faults}", a_process(count), seconds / f64::from(RUNS) * 1e6)
}

/// The dearest first.
fn rows(calls: &BTreeMap<String, Call>) -> Vec<Vec<String>> {
    let all: f64 = calls.values().map(|call| call.seconds).sum();
    let mut calls: Vec<_> = calls.iter().collect();
    calls.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    let row = |(name, call): (&String, &Call)| {
        let micros = format!("{:.0}", call.seconds / f64::from(RUNS) * 1e6);
        vec![name.clone(), a_process(call.calls), micros, format!("{:.0} %", call.seconds / all * 100.0)]
    };
    calls.into_iter().map(row).collect()
}

/// A count of all processes as one of one, mostly a whole number.
fn a_process(count: u64) -> String {
    let each = count as f64 / f64::from(RUNS);
    if count % u64::from(RUNS) == 0 { format!("{each:.0}") } else { format!("{each:.1}") }
}
