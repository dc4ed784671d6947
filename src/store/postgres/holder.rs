//! Who holds a row's lock: a hint for people, asked of the server's views.

use super::{client::Client, literal::literal, script::Script};
use crate::{
    error::Result,
    lock::{Fence, Holder},
    name::Name,
};

/// What this process calls itself to the server, at most 63 bytes of it.
pub(super) fn application_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("triplock {} {host}", std::process::id())
}

/// Who has locked the row of `table` whose `column` is that name; ends the failed transaction first.
///
/// The row names the transaction that locked it last (`xmax`), a transaction that runs has a lock on its own number, and
/// the lock names its session. A row that several have locked together names none of them.
pub(super) fn of_row(client: &mut Client, table: &str, column: &str, name: &Name) -> Result<Option<Holder>> {
    let mut script = Script::new();
    script.add("ROLLBACK");
    let found = script.add(format_args!(
        "SELECT activity.application_name, activity.pid, \
         (extract(epoch FROM coalesce(xact_start, clock_timestamp())) * 1000000)::bigint \
         FROM triplock.{table} JOIN pg_locks ON locktype = 'transactionid' AND granted AND transactionid = {table}.xmax \
         JOIN pg_stat_activity activity ON activity.pid = pg_locks.pid WHERE {column} = {}",
        literal(name.as_str())
    ));
    let answers = script.send(client).map_err(|failure| failure.into_error(client.server()))?;
    let Some(row) = answers.row(found) else { return Ok(None) };
    let (Ok(since), Ok(backend)) = (row.time(2), row.get(1)) else { return Ok(None) };
    // Another user's session keeps its name to itself.
    let application = row.optional(0).unwrap_or_default();
    let mut words = application.splitn(3, ' ');
    let ours = match (words.next(), words.next().and_then(|pid| pid.parse().ok()), words.next()) {
        (Some("triplock"), Some(pid), Some(host)) => Some((pid, host.to_owned(), "triplock".to_owned())),
        _ => None,
    };
    // Of others only the server's own process is known.
    let (pid, host, command) = ours.unwrap_or_else(|| (backend, client.server().to_owned(), application.to_owned()));
    Ok(Some(Holder { pid, host, since, command, fence: Fence(0) }))
}
