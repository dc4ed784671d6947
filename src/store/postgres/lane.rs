//! The lane in front of a resource: a row for each ticket, all of whose changes but one are part of asking for the lease
//! ([`super::leases`]), under the lock of the resource's row. ([`crate::store`]'s tickets say what for.)
//!
//! The exception is a ticket that is given back: that row is deleted by itself, without the resource's. Whoever asks at that
//! moment sees it or does not; if it does, the notification that comes with the commit has it ask again.

use super::{
    PostgresSession, leases::CHANNEL, leases::interval, literal::literal, schema::with_tables, script::Script,
};
use crate::{
    error::Result,
    store::{Resource, Ticket, Token},
};

/// The lane as one of those who ask for the lease sees it; what it makes of that are pieces of the one script.
pub(super) struct Lane<'a> {
    /// As literals.
    pub(super) key: &'a str,
    pub(super) note: &'a str,
    pub(super) ticket: Option<&'a Ticket>,
}

impl Lane<'_> {
    /// Those who come before us, first first: columns for [`super::leases`] to read as a held lease.
    pub(super) fn in_front(&self, columns: &str) -> String {
        format!(
            "SELECT {columns} FROM triplock.tickets WHERE {} ORDER BY NOT is_urgent, number LIMIT 1",
            self.before_us()
        )
    }

    /// A condition for a ticket to be somebody else's, live, and in front of us.
    pub(super) fn before_us(&self) -> String {
        let live = format!("resource = {} AND expires > clock_timestamp()", self.key);
        // Who is not in the lane comes after all that are.
        let last = i64::MAX;
        let Some(Ticket { token, is_urgent }) = self.ticket else { return live };
        let ours = literal(token.as_str());
        format!(
            "{live} AND ticket <> {ours} AND (NOT is_urgent, number) < ({}, \
             coalesce((SELECT number FROM triplock.tickets WHERE {live} AND ticket = {ours}), {last}))",
            !is_urgent
        )
    }

    /// What is done with our ticket after we asked with that token: it is removed if we have the lease now, else renewed or
    /// put at the end. By the way those are thrown away that are over.
    pub(super) fn take(&self, script: &mut Script, token: &Token, slots: u32) {
        let Some(ticket) = self.ticket else { return };
        let Self { key, note, .. } = self;
        let ours = literal(ticket.token.as_str());
        let granted = format!(
            "EXISTS (SELECT FROM triplock.leases WHERE resource = {key} AND token = {})",
            literal(token.as_str())
        );
        script.add(format_args!(
            "DELETE FROM triplock.tickets WHERE resource = {key} \
             AND (expires <= clock_timestamp() OR ticket = {ours} AND {granted})"
        ));
        script.add(format_args!(
            "INSERT INTO triplock.tickets (resource, ticket, is_urgent, expires, holder) \
             SELECT {key}, {ours}, {}, clock_timestamp() + {}, {note} WHERE NOT {granted} \
             ON CONFLICT (resource, ticket) DO UPDATE SET expires = excluded.expires",
            ticket.is_urgent,
            interval(Ticket::TTL),
        ));
        if slots > 1 {
            // The next may have asked already, and been refused because of us.
            script.add(format_args!(
                "SELECT pg_notify('{CHANNEL}', {key}) WHERE {granted} \
                 AND EXISTS (SELECT FROM triplock.tickets WHERE resource = {key}) \
                 AND (SELECT count(*) FROM triplock.leases WHERE resource = {key} AND slot <= {slots} \
                 AND expires > clock_timestamp()) < {slots}"
            ));
        }
    }
}

/// Gives a ticket back.
pub(super) fn leave(session: &mut PostgresSession, resource: &Resource, ticket: &Ticket) -> Result<bool> {
    let client = &mut session.client;
    let (key, ours) = (literal(resource.key()), literal(ticket.token.as_str()));
    let mut script = Script::short_transaction(client);
    let left = script.add(format_args!(
        "WITH gone AS (DELETE FROM triplock.tickets WHERE resource = {key} AND ticket = {ours} RETURNING ticket) \
         SELECT pg_notify('{CHANNEL}', {key}) FROM gone"
    ));
    script.add("COMMIT");
    Ok(with_tables(client, |client| script.send(client))?.row(left).is_some())
}
