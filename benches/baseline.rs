//! The baselines that no package offers, native and built as the product is, without a command-line parser to start.
//!
//! `baseline book DIR STUDENT`: books as a careful script would: lock, read all bookings from one JSON file, add one,
//! write a new file, fsync, rename, fsync the directory.
//! `baseline stamp FILE MILLISECONDS`: takes that long, and appends when it started and when it ended, in nanoseconds since
//! the boot.
//! `baseline wait-and-start LOCK COMMAND…`: one blocking flock(2), then the command, and nothing else.
//! `baseline parse-and-sync INPUT BYTES OUT`: parses a batch's lines, and writes and syncs that many bytes once.
#![allow(clippy::disallowed_methods)] // The product's flock(2) is in one module; this is not the product.

use std::{
    env,
    error::Error,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    thread,
    time::Duration,
};

use fs2::FileExt as _;
use serde::{Deserialize, Serialize};

// What the product has, its baseline has too.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[derive(Serialize, Deserialize)]
struct Trip<'a> {
    format: u32,
    seats: u32,
    seats_left: u32,
    #[serde(borrow)]
    bookings: Vec<Booking<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Booking<'a> {
    student: &'a str,
    seats: u32,
    time: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["book", directory, student] => book(Path::new(directory), student),
        ["stamp", file, milliseconds] => stamp(Path::new(file), milliseconds),
        ["wait-and-start", lock, ref command @ ..] => wait_and_start(Path::new(lock), command),
        ["parse-and-sync", input, bytes, out] => parse_and_sync(Path::new(input), bytes, Path::new(out)),
        _ => Err("usage: baseline book DIR STUDENT | baseline stamp FILE MILLISECONDS | baseline wait-and-start LOCK COMMAND… | baseline parse-and-sync INPUT BYTES OUT".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baseline: {error}");
            ExitCode::FAILURE
        }
    }
}

fn stamp(file: &Path, milliseconds: &str) -> Result<(), Box<dyn Error>> {
    let now = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    };
    let start = now();
    let time = Duration::from_millis(milliseconds.parse()?);
    if !time.is_zero() {
        thread::sleep(time);
    }
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(file, "{start} {}", now())?;
    Ok(())
}

fn wait_and_start(lock: &Path, command: &[&str]) -> Result<(), Box<dyn Error>> {
    let [program, arguments @ ..] = command else { return Err("no command".into()) };
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock)?;
    lock.lock_exclusive()?;
    std::process::Command::new(program).args(arguments).status()?;
    Ok(())
}

fn book(directory: &Path, student: &str) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(directory)?;
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join("trip.lock"))?;
    lock.lock_exclusive()?;

    let path = directory.join("trip.json");
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    let mut trip: Trip<'_> = match &text {
        Some(text) => serde_json::from_slice(text)?,
        None => Trip { format: 1, seats: 1_000_000, seats_left: 1_000_000, bookings: Vec::new() },
    };
    if trip.bookings.iter().any(|booking| booking.student == student) {
        return Err("already booked".into());
    }
    trip.seats_left = trip.seats_left.checked_sub(1).ok_or("sold out")?;
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    trip.bookings.push(Booking { student, seats: 1, time });

    let fresh = directory.join("trip.json.new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(&trip)?)?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    File::open(directory)?.sync_all()?;
    println!("booked, {} seats left", trip.seats_left);
    Ok(())
}

#[derive(Deserialize)]
#[allow(dead_code)] // Parsed, which is what is measured.
struct Line<'a> {
    student: &'a str,
    #[serde(default)]
    seats: Option<u32>,
    #[serde(default)]
    request_id: Option<&'a str>,
}

fn parse_and_sync(input: &Path, bytes: &str, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut bytes: usize = bytes.parse()?;
    let text = fs::read(input)?;
    let lines: Vec<Line<'_>> = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect::<Result<_, _>>()?;
    if std::hint::black_box(&lines).is_empty() {
        return Err("no lines".into());
    }
    let mut file = File::create(out)?;
    while bytes > 0 {
        let now = &text[..bytes.min(text.len())];
        file.write_all(now)?;
        bytes -= now.len();
    }
    file.sync_data()?;
    Ok(())
}
