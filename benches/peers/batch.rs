//! A batch, and bookings in trips that hold many: what size costs.

use std::{fs, io::Write as _, path::PathBuf, process::Command, time::Duration};

use crate::{
    drive::{median, output, run},
    report::{Figures, Part, Target},
    site::Site,
};

/// The product in a state directory of its own.
struct Product<'a> {
    site: &'a Site,
    state: PathBuf,
}

impl<'a> Product<'a> {
    fn new(site: &'a Site) -> Self {
        Self { site, state: site.directory("triplock") }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.site.product());
        command.env("TRIPLOCK_STATE_DIR", &self.state).env_remove("TRIPLOCK_COMMIT");
        command
    }

    fn add(&self, trip: &str) {
        run(self.command().args(["trip", "add", trip, "--seats", "1000000000"]));
    }

    fn ledger_bytes(&self, trip: &str) -> u64 {
        fs::metadata(self.state.join(format!("trips/{trip}.jsonl"))).expect("the ledger").len()
    }

    /// Everybody booked a seat each.
    fn holds(&self, trip: &str, bookings: u64) {
        let shown = output(self.command().args(["--json", "trip", "show", trip]));
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["seats_left"], 1_000_000_000 - bookings, "trip {trip} does not hold what was booked");
    }
}

/// A batch's input: so many students.
fn input(site: &Site, students: u64) -> PathBuf {
    let path = site.directory("input").join(format!("{students}.jsonl"));
    let mut file = std::io::BufWriter::new(fs::File::create(&path).expect("a file"));
    for student in 0..students {
        writeln!(file, "{{\"student\":\"{student}\"}}").expect("written");
    }
    file.into_inner().expect("written").sync_all().expect("synced");
    path
}

/// `book --batch` beside the least that it could do.
pub(crate) fn batch(site: &Site) -> Part {
    const STUDENTS: u64 = 100_000;
    let mut part = Part::new(
        "batch",
        "`book --batch` of 100,000 students, the whole process, answers to /dev/null; beside a process that parses the \
         same lines with serde_json, and writes and syncs once as many bytes as the ledger grew by",
    );
    let (product, input) = (Product::new(site), input(site, STUDENTS));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..7 {
        let trip = round.to_string();
        product.add(&trip);
        let before = product.ledger_bytes(&trip);
        ours.push(run(product.command().args(["book", &trip, "--batch"]).arg(&input)).as_secs_f64() * 1e3);
        let bytes = product.ledger_bytes(&trip) - before;
        let out = site.directory("out").join("bytes");
        let mut baseline = Command::new(site.baseline());
        baseline.arg("parse-and-sync").arg(&input).arg(bytes.to_string()).arg(out);
        theirs.push(run(&mut baseline).as_secs_f64() * 1e3);
        product.holds(&trip, STUDENTS);
        if round == 0 {
            part.note(format!("The ledger grew by {bytes} bytes"));
        }
    }
    let (ours, theirs) = (Figures::new(&ours, "ms"), Figures::new(&theirs, "ms"));
    part.row("triplock / parse, write and sync once", &ours, &theirs, Target::at_most(3.0));
    part
}

/// One booking in trips that hold 10 to 1,000,000 of them.
pub(crate) fn growth(site: &Site) -> Part {
    const HELD: [u64; 4] = [10, 1_000, 100_000, 1_000_000];
    const ROUNDS: usize = 5;
    const BOOKINGS: u64 = 200;
    let mut part = Part::new("growth", "p50 of a durable booking, a process each, by how many bookings the trip holds");
    let product = Product::new(site);
    for held in HELD {
        product.add(&held.to_string());
        run(product.command().args(["book", &held.to_string(), "--batch"]).arg(input(site, held)));
    }
    let book = |trip: u64, student: u64| {
        let mut command = product.command();
        command.args(["book", &trip.to_string(), "--student", &format!("late-{student}")]);
        command
    };

    // The small trip must stay small: it is cancelled from, outside the measurement.
    let mut p50 = vec![Vec::new(); HELD.len()];
    let mut student = 0;
    for _ in 0..ROUNDS {
        let mut took = vec![Vec::<Duration>::new(); HELD.len()];
        for _ in 0..BOOKINGS {
            student += 1;
            for (at, held) in HELD.iter().enumerate() {
                took[at].push(run(&mut book(*held, student)));
            }
            run(product.command().args(["cancel", "10", "--student", &format!("late-{student}")]));
        }
        for (p50, took) in p50.iter_mut().zip(&took) {
            p50.push(median(took).as_secs_f64() * 1e6);
        }
    }
    for at in 1..HELD.len() {
        let what = format!("{} bookings held / {}", HELD[at], HELD[0]);
        let target = if at == HELD.len() - 1 { Target::at_most(1.2) } else { Target::none() };
        part.row(&what, &Figures::new(&p50[at], "µs"), &Figures::new(&p50[0], "µs"), target);
    }
    memory(&mut part, HELD, |trip, student| book(trip, 1_000_000 + student));
    product.holds("10", 10 + MEMORY_SAMPLES);
    product.holds("1000000", 1_000_000 + student + MEMORY_SAMPLES);
    part
}

const MEMORY_SAMPLES: u64 = 5;

/// Peak memory as GNU time tells it: std does not give a child's resource usage.
fn memory(part: &mut Part, held: [u64; 4], book: impl Fn(u64, u64) -> Command) {
    let mut peak = vec![Vec::new(); held.len()];
    for student in 0..MEMORY_SAMPLES {
        for (at, held) in held.iter().enumerate() {
            let command = book(*held, student);
            let mut time = Command::new("time");
            time.args(["-f", "%M"]).arg(command.get_program()).args(command.get_args());
            time.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let output = match time.output() {
                Ok(output) => output,
                Err(error) => {
                    run(&mut book(*held, student));
                    part.note(format!("**Not measured:** memory; GNU time: {error}"));
                    continue;
                }
            };
            assert!(output.status.success(), "{time:?}");
            let told = String::from_utf8(output.stderr).expect("text");
            peak[at].push(told.trim().parse::<f64>().expect("KiB"));
        }
    }
    if peak.iter().all(|peak| !peak.is_empty()) {
        let at = held.len() - 1;
        let what = format!("peak memory: {} bookings held / {}", held[at], held[0]);
        part.row(&what, &Figures::new(&peak[at], "KiB"), &Figures::new(&peak[0], "KiB"), Target::at_most(1.1));
    }
}
