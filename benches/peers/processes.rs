//! Durable bookings, a process each: everybody in turn, round after round, from 1, 8 and 64 drivers.

use std::time::Duration;

use crate::{
    peer::{self, Peer},
    report::{Figures, Part, Target},
    site::Site,
};

const DRIVERS: [usize; 3] = [1, 8, 64];
const ROUNDS: usize = 5;
const SLICE: Duration = Duration::from_millis(700);

/// The product beside its peers and beside processes that do nothing.
pub(crate) fn beside_peers(site: &Site) -> Part {
    let mut part = Part::new("processes", "Durable bookings per second, a process each; 5 rounds of 0.7 s in turn");
    let ours = peer::triplock(site, "triplock", false);
    let least = |bound: f64, aim: f64| Target::at_least(bound).aiming_at(aim);
    let mut theirs = vec![
        (peer::whole_json(site, "whole JSON file replaced, fsync", None), least(4.0, 6.0)),
        (peer::whole_json(site, "the same, never above 200 bookings", Some(200)), Target::none()),
    ];
    let others = [
        (peer::sqlite(site), least(5.0, 6.0)),
        (peer::redis(site), least(6.0, 8.0)),
        (peer::postgres(site), least(15.0, 20.0)),
    ];
    for (peer, target) in others {
        match peer {
            Ok(peer) => theirs.push((peer, target)),
            Err(why) => part.note(format!("**Not measured:** {why}")),
        }
    }
    part.note(
        "The JSON file holds the bookings of the run, as everybody's trip does; the other one is begun afresh"
            .to_owned(),
    );
    let version = peer::no_op("no-op process: triplock --version", site.product().to_owned(), Some("--version"));
    theirs.push((version, least(0.5, 0.6)));
    theirs.push((peer::no_op("no-op process: coreutils true", "true".into(), None), Target::none()));
    compare(&mut part, ours, theirs);
    part
}

/// The product's two commit protocols.
pub(crate) fn one_or_two_locks(site: &Site) -> Part {
    let about = "Durable bookings per second, a process each: the syncing lock beside one lock held across the sync";
    let mut part = Part::new("protocol", about);
    let two = peer::triplock(site, "two locks", false);
    let one = peer::triplock(site, "one lock", true);
    compare(&mut part, two, vec![(one, Target::none())]);
    part
}

/// Everybody in turn, and what was promised of more than one at once.
pub(crate) fn compare(part: &mut Part, ours: Peer, theirs: Vec<(Peer, Target)>) {
    for drivers in DRIVERS {
        let mut our_rates = Vec::new();
        let mut their_rates = vec![Vec::new(); theirs.len()];
        for _ in 0..ROUNDS {
            our_rates.push(ours.drive(drivers, SLICE).rate());
            for ((peer, _), rates) in theirs.iter().zip(&mut their_rates) {
                rates.push(peer.drive(drivers, SLICE).rate());
            }
        }
        for ((peer, target), rates) in theirs.iter().zip(&their_rates) {
            // What was promised, was promised for processes that compete.
            let target = if drivers == 1 { Target::none() } else { *target };
            let what = format!("{drivers} at once: {} / {}", ours.name, peer.name);
            part.row(&what, &Figures::new(&our_rates, "/s"), &Figures::new(rates, "/s"), target);
        }
    }
    ours.verify();
    for (peer, _) in theirs {
        peer.verify();
    }
    part.note("Afterwards each system holds exactly the bookings that its processes were told they have".to_owned());
}

/// Whether everybody gets a turn.
pub(crate) fn waiting(site: &Site) -> Part {
    const DRIVERS: usize = 64;
    let mut part =
        Part::new("waiting", "64 drivers booking the same trip for 5 s, a process a booking; 3 rounds in turn");
    let mut peers = vec![peer::triplock(site, "triplock", false)];
    match peer::sqlite(site) {
        Ok(peer) => peers.push(peer),
        Err(why) => part.note(format!("**Not measured:** {why}")),
    }
    let mut jain = vec![Vec::new(); peers.len()];
    let mut least = vec![u64::MAX; peers.len()];
    for _ in 0..3 {
        for (at, peer) in peers.iter().enumerate() {
            let drove = peer.drive(DRIVERS, Duration::from_secs(5));
            jain[at].push(drove.jain());
            least[at] = least[at].min(drove.by_driver.iter().copied().min().unwrap_or(0));
        }
    }
    for (at, peer) in peers.iter().enumerate() {
        let target = if at == 0 { Target::at_least(0.97) } else { Target::none() };
        part.figure(&format!("Jain index: {}", peer.name), &Figures::new(&jain[at], ""), target);
        part.note(format!("{}: the unluckiest driver booked {} times in 5 s", peer.name, least[at]));
    }
    peers.into_iter().for_each(Peer::verify);
    part
}
