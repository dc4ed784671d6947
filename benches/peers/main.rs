//! triplock beside its peers, in the same run. Start it with `benches/run`, which builds and installs what it needs.
#![allow(clippy::cast_precision_loss)] // Counts of a benchmark are far below 2^52.

mod batch;
mod calls;
mod drive;
mod history;
mod jobs;
mod library;
mod peer;
mod processes;
mod queue;
mod report;
mod server;
mod servers;
mod site;
mod startup;

use report::Part;
use site::Site;

type Measure = fn(&Site) -> Part;

/// What can be asked for, in the order in which all of it runs.
const PARTS: [(&str, Measure); 12] = [
    ("start-up", startup::measure),
    ("processes", processes::beside_peers),
    ("protocol", processes::one_or_two_locks),
    ("waiting", processes::waiting),
    ("library", library::measure),
    ("servers", servers::measure),
    ("batch", batch::batch),
    ("growth", batch::growth),
    ("jobs", jobs::measure),
    ("queue", queue::measure),
    ("calls", calls::measure),
    ("history", history::measure),
];

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|asked| !PARTS.iter().any(|(name, _)| name == asked)) {
        eprintln!("no part {unknown}: {}", PARTS.map(|(name, _)| name).join(", "));
        std::process::exit(64);
    }
    let site = Site::from_environment();
    for (name, measure) in PARTS {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            measure(&site).record(&site);
        }
    }
}
