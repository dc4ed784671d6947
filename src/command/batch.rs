//! `book --batch`: JSON Lines in, JSON Lines (or sentences) out, one commit.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write as _},
    path::Path,
};

use serde::Deserialize;

use super::{
    answered, busy,
    trip::{Sentence, exit_code},
    trips, wait,
};
use crate::{
    booking::{Change, Request},
    cli::{self, Global},
    error::{Error, Result},
    exit::ExitCode,
    lock::Acquire,
    name::{Name, RequestId, Student},
    output::Output,
};

/// The longest line of a batch, in bytes: a booking has at most some 350.
const LONGEST_LINE: u64 = 4096;

/// One line of a batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Booking {
    student: Student,
    #[serde(default = "one")]
    seats: u32,
    request_id: Option<RequestId>,
}

fn one() -> u32 {
    1
}

/// Reads all of the batch before it asks for the lock: a slow producer keeps nobody waiting.
pub(super) fn book(
    output: &Output,
    global: &Global,
    trip: &Name,
    from: &Path,
    request: &cli::Request,
) -> anyhow::Result<ExitCode> {
    let requests = read(from)?;
    let store = trips(output, global)?.ok_or_else(|| Error::NoSuchTrip(trip.clone()))?;
    let answers = match store.submit_batch(trip, &requests, wait(request))? {
        Acquire::Granted(answers) => answers,
        Acquire::Held(holder) => return Ok(busy(output, trip, holder.as_ref())),
    };
    // "Sold out" is what a caller waits for; another refusal counts when there was none.
    let codes = || answers.iter().map(exit_code);
    let refused = codes().find(|code| *code == ExitCode::SoldOut).or_else(|| codes().find(|c| *c == ExitCode::Refused));
    let mut to = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let printed = answers.iter().try_for_each(|answer| output.result(&mut to, answer, || Sentence(answer)));
    let printed = printed.and_then(|()| to.flush());
    store.tidy();
    Ok(answered(printed, refused.unwrap_or(ExitCode::Success), None)?)
}

fn read(from: &Path) -> Result<Vec<Request>> {
    if from.as_os_str() == "-" {
        return parse("standard input", io::stdin().lock());
    }
    let file = File::open(from).map_err(|e| Error::io("open", from, e))?;
    parse(&from.to_string_lossy(), BufReader::with_capacity(64 * 1024, file))
}

fn parse(source: &str, mut from: impl BufRead) -> Result<Vec<Request>> {
    let mut requests = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let bad = |why: String| Error::BadBatch { source: source.to_owned(), line: number, why };
        let read = io::Read::take(&mut from, LONGEST_LINE).read_until(b'\n', &mut line);
        match read.map_err(|e| Error::io("read", source, e))? as u64 {
            0 => break,
            LONGEST_LINE if !line.ends_with(b"\n") => return Err(bad(format!("longer than {LONGEST_LINE} bytes"))),
            _ => {}
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let booking: Booking = serde_json::from_slice(&line).map_err(|e| bad(explain(&e)))?;
        if booking.seats == 0 {
            return Err(bad("seats: at least 1 is needed".to_owned()));
        }
        let change = Change::Book { student: booking.student, seats: booking.seats };
        requests.push(Request { change, id: booking.request_id });
    }
    Ok(requests)
}

/// The parser counts lines of its own, of which there is one.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    format!("{text} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_and_request_id_are_optional_and_blank_lines_skipped() {
        let lines = "{\"student\":\"7\"}\n\n{\"student\":\"8\",\"seats\":2,\"request_id\":\"r\"}";
        let requests = parse("-", lines.as_bytes()).unwrap();
        assert_eq!(requests[0], Request::new(Change::Book { student: "7".parse().unwrap(), seats: 1 }));
        assert_eq!(requests[1].id, Some("r".parse().unwrap()));
    }

    #[test]
    fn a_bad_line_is_named() {
        let good = "{\"student\":\"7\"}\n{\"student\":\"8\"}\n";
        let long = format!("{{\"student\":\"{}\"}}", "x".repeat(5000));
        for bad in [
            "{",
            "[]",
            "{\"student\":\"a/b\"}",
            "{\"student\":\"9\",\"seats\":0}",
            "{\"student\":\"9\",\"seats\":-1}",
            "{\"student\":\"9\",\"seat\":1}",
            "{\"seats\":1}",
            "\u{0}",
            &long,
        ] {
            let error = parse("b.jsonl", format!("{good}{bad}\n").as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("b.jsonl: line 3: "), "{bad}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
