//! What a session promises, whichever server it is with.

mod lane;

use super::{Resource, Session, Ticket};

/// A server, as a contract looks at it from outside.
trait Site {
    fn session(&self) -> Box<dyn Session>;

    /// The tickets of a resource, the first first.
    fn lane(&self, resource: &Resource) -> Vec<String>;

    /// As if the ticket's holder had not asked for long.
    fn expire(&self, resource: &Resource, ticket: &Ticket);

    /// As if the server had lost all tickets of the resource.
    fn lose(&self, resource: &Resource);
}

#[cfg(feature = "redis")]
impl Site for super::redis::tests::Server {
    fn session(&self) -> Box<dyn Session> {
        self.session()
    }

    fn lane(&self, resource: &Resource) -> Vec<String> {
        let key = format!("triplock:{{{}}}:lane", resource.key());
        self.cli(&["ZRANGE", &key, "0", "-1"]).lines().map(str::to_owned).collect()
    }

    fn expire(&self, resource: &Resource, ticket: &Ticket) {
        let key = format!("triplock:{{{}}}:tickets", resource.key());
        assert_eq!(self.cli(&["HSET", &key, ticket.token.as_str(), "1 {}"]), "0", "it was there");
    }

    fn lose(&self, resource: &Resource) {
        let key = |what| format!("triplock:{{{}}}:{what}", resource.key());
        self.cli(&["DEL", &key("lane"), &key("tickets")]);
    }
}

#[cfg(feature = "postgres")]
impl Site for super::postgres::tests::Server {
    fn session(&self) -> Box<dyn Session> {
        self.session()
    }

    fn lane(&self, resource: &Resource) -> Vec<String> {
        let key = resource.key();
        self.sql(&format!(
            "SELECT ticket FROM triplock.tickets WHERE resource = '{key}' ORDER BY NOT is_urgent, number"
        ))
    }

    fn expire(&self, resource: &Resource, ticket: &Ticket) {
        let (key, ticket) = (resource.key(), ticket.token.as_str());
        let expired = self.sql(&format!(
            "UPDATE triplock.tickets SET expires = now() WHERE resource = '{key}' AND ticket = '{ticket}' RETURNING 1"
        ));
        assert_eq!(expired, ["1"], "it was there");
    }

    fn lose(&self, resource: &Resource) {
        self.sql(&format!("DELETE FROM triplock.tickets WHERE resource = '{}'", resource.key()));
    }
}
