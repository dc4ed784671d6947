//! What a `PostgreSQL` promises, for `doctor`.

use super::{client::Client, row::Row, script::Script};
use crate::{error::Result, store::ServerFacts};

/// The settings, in the order of the columns.
const SETTINGS: [&str; 5] =
    ["server_version", "fsync", "synchronous_commit", "full_page_writes", "synchronous_standby_names"];

/// Reads them.
pub(super) fn facts(client: &mut Client) -> Result<ServerFacts> {
    let mut script = Script::new();
    let settings = SETTINGS.map(|name| format!("current_setting('{name}')")).join(", ");
    let found = script.add(format_args!(
        "SELECT {settings}, pg_is_in_recovery(), current_setting('default_transaction_read_only')::bool, \
         coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)"
    ));
    let answers = script.send(client).map_err(|failure| failure.into_error(client.server()))?;
    Ok(answers.row(found).map(of_row).unwrap_or_default())
}

fn of_row(row: &Row) -> ServerFacts {
    let [version, fsync, commit, full_pages, standbys] = [0, 1, 2, 3, 4].map(|at| row.optional(at).unwrap_or_default());
    let (is_replica, is_read_only, is_encrypted) = (row.is_true(5), row.is_true(6), row.is_true(7));
    // `15.18 (Debian 15.18-0+deb12u1)`
    let number = version.split(' ').next().unwrap_or_default();
    let mut facts =
        ServerFacts { product: format!("PostgreSQL {number}"), is_encrypted, is_replica, ..ServerFacts::default() };
    let mut tell = |line: &str, problem: Option<&str>| {
        facts.durability.push(line.to_owned());
        facts.problems.extend(problem.map(str::to_owned));
    };
    match fsync {
        "on" => tell("fsync on: an answer is on its disk", None),
        _ => tell(
            "fsync off: a crash of its machine takes answered bookings, or the whole database",
            Some("fsync is off: answered bookings can be lost; set `fsync = on`"),
        ),
    }
    match full_pages {
        "on" => tell("full_page_writes on: a page that was half written is made whole after a crash", None),
        _ => tell(
            "full_page_writes off: a crash may leave pages that are half written",
            Some("full_page_writes is off: set it to on, unless its file system writes pages as a whole (ZFS)"),
        ),
    }
    match commit {
        "off" | "local" | "remote_write" => {
            tell(&format!("synchronous_commit {commit}: raised to on in every transaction of triplock"), None);
        }
        _ => tell(&format!("synchronous_commit {commit}"), None),
    }
    match standbys {
        "" => tell("no synchronous replica: a failover to a replica can lose answered bookings", None),
        names => tell(&format!("synchronous_standby_names {names}: an answer is on the disks of replicas, too"), None),
    }
    if is_replica {
        facts.problems.push("it is a replica, which takes no writes: name the primary in the URL".to_owned());
    } else if is_read_only {
        facts.problems.push("default_transaction_read_only is on: it takes no writes; set it to off".to_owned());
    }
    if let Some(major) = number.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        if major < OLDEST {
            facts.problems.push(format!("PostgreSQL {number} is older than {OLDEST}, the oldest that is supported"));
        }
    }
    facts
}

/// The oldest version that is known to do.
const OLDEST: u32 = 13;
