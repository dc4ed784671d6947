//! The lanes in front of leases, as somebody sees and changes them who asks the server itself.

use crate::{
    leased::Server,
    servers::{Database, Redis},
};

/// What the lanes of a server look like from outside.
pub(crate) trait Lanes: Server {
    /// The tickets of a resource, the first first.
    fn lane(&self, resource: &str) -> Vec<String>;

    /// Puts a ticket into the lane, in front of all that are not urgent, of somebody who never asks again.
    fn plant(&self, resource: &str);

    /// As if the holder of the ticket had not asked for long.
    fn expire(&self, resource: &str, ticket: &str);

    /// As if the server had lost them.
    fn lose(&self, resource: &str);

    /// The resources that are files.
    fn files(&self) -> Vec<String>;
}

const NOTE: &str = r#"{"pid":7,"host":"elsewhere","since":"2026-11-23T20:25:19Z","command":"patient","fence":0}"#;

fn key(resource: &str, what: &str) -> String {
    format!("triplock:{{{resource}}}:{what}")
}

impl Lanes for Redis {
    fn lane(&self, resource: &str) -> Vec<String> {
        self.cli(["ZRANGE", &key(resource, "lane"), "0", "-1"]).lines().map(str::to_owned).collect()
    }

    fn plant(&self, resource: &str) {
        self.cli(["ZADD", &key(resource, "lane"), "1", "planted"]);
        self.cli(["HSET", &key(resource, "tickets"), "planted", &format!("9000000000000000 {NOTE}")]);
    }

    fn expire(&self, resource: &str, ticket: &str) {
        self.cli(["HSET", &key(resource, "tickets"), ticket, &format!("1 {NOTE}")]);
    }

    fn lose(&self, resource: &str) {
        self.cli(["DEL", &key(resource, "lane"), &key(resource, "tickets")]);
    }

    fn files(&self) -> Vec<String> {
        let names = self.cli(["SMEMBERS", "triplock:names"]);
        names.lines().filter(|name| name.starts_with("files/")).map(str::to_owned).collect()
    }
}

impl Lanes for Database<'_> {
    fn lane(&self, resource: &str) -> Vec<String> {
        let order = "ORDER BY NOT is_urgent, number";
        let tickets = self.sql(&format!("SELECT ticket FROM triplock.tickets WHERE resource = '{resource}' {order}"));
        tickets.lines().map(str::to_owned).collect()
    }

    fn plant(&self, resource: &str) {
        self.sql(&format!(
            "INSERT INTO triplock.tickets (resource, ticket, number, is_urgent, expires, holder) \
             OVERRIDING SYSTEM VALUE VALUES ('{resource}', 'planted', 0, false, now() + interval '1 day', '{NOTE}')"
        ));
    }

    fn expire(&self, resource: &str, ticket: &str) {
        self.sql(&format!(
            "UPDATE triplock.tickets SET expires = now() WHERE resource = '{resource}' AND ticket = '{ticket}'"
        ));
    }

    fn lose(&self, resource: &str) {
        self.sql(&format!("DELETE FROM triplock.tickets WHERE resource = '{resource}'"));
    }

    fn files(&self) -> Vec<String> {
        let names = self.sql("SELECT resource FROM triplock.resources WHERE resource LIKE 'files/%'");
        names.lines().map(str::to_owned).collect()
    }
}
