//! What a Redis promises, for `doctor`.

use std::collections::HashMap;

use super::{RedisSession, command, reply, trouble::Failure};
use crate::store::ServerFacts;

/// What a server says of itself.
struct Settings {
    /// Of INFO.
    info: HashMap<String, String>,
    /// Of CONFIG GET; empty where that is not allowed.
    config: HashMap<String, String>,
}

/// Reads INFO and the configuration.
pub(super) fn facts(session: &mut RedisSession) -> Result<ServerFacts, Failure> {
    // Either may be refused to our user, or by a managed server to everybody.
    let info = match session.ask_one(redis::cmd("INFO")) {
        Ok(info) => reply::text(info)?,
        Err(Failure::Refused(_)) => String::new(),
        Err(failure) => return Err(failure),
    };
    let pairs = info.lines().filter_map(|line| line.split_once(':'));
    let info = pairs.map(|(key, value)| (key.to_owned(), value.trim_end().to_owned())).collect();
    let settings = Settings { info, config: configuration(session)? };
    let mut facts = ServerFacts {
        product: settings.product(),
        is_encrypted: session.place.is_encrypted(),
        is_replica: settings.of_info("role") == Some("slave"),
        ..ServerFacts::default()
    };
    settings.durability(&mut facts);
    settings.replication(&mut facts, session.place.replicas.map(|replicas| replicas.count));
    settings.fitness(&mut facts);
    Ok(facts)
}

/// `None` of it where that is not allowed.
fn configuration(session: &mut RedisSession) -> Result<HashMap<String, String>, Failure> {
    let names = ["GET", "appendonly", "appendfsync", "save", "min-replicas-to-write", "maxmemory-policy"];
    let values = match session.ask_one(command("CONFIG", names)) {
        Ok(values) => reply::list(values)?,
        Err(Failure::Refused(_)) => return Ok(HashMap::new()),
        Err(failure) => return Err(failure),
    };
    let mut values = values.into_iter();
    let mut config = HashMap::new();
    while let (Some(key), Some(value)) = (values.next(), values.next()) {
        config.insert(reply::text(key)?, reply::text(value)?);
    }
    Ok(config)
}

impl Settings {
    fn of_info(&self, key: &str) -> Option<&str> {
        self.info.get(key).map(String::as_str)
    }

    fn of_config(&self, key: &str) -> Option<&str> {
        self.config.get(key).map(String::as_str)
    }

    fn number(&self, key: &str) -> u64 {
        self.of_info(key).and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    fn product(&self) -> String {
        match self.of_info("valkey_version") {
            Some(version) => format!("Valkey {version}"),
            None => format!("Redis {}", self.of_info("redis_version").unwrap_or("of an unknown version")),
        }
    }

    /// What a crash of the server takes.
    fn durability(&self, facts: &mut ServerFacts) {
        let appends = self.of_info("aof_enabled").map(|on| on == "1");
        let sync = self.of_config("appendfsync");
        let (line, problem) = match (appends, sync) {
            (Some(true), Some("always")) => ("appendfsync always: an answer is on its disk", None),
            (Some(true), Some("everysec")) => (
                "appendfsync everysec: a crash takes up to 2 s of answered bookings",
                Some("appendfsync everysec: answered bookings can be lost; set `appendfsync always`"),
            ),
            (Some(true), Some("no")) => (
                "appendfsync no: a crash takes what the kernel had not written, some 30 s of answered bookings",
                Some("appendfsync no: answered bookings can be lost; set `appendfsync always`"),
            ),
            (Some(true), _) => ("appendonly yes; appendfsync unknown: CONFIG GET is not allowed", None),
            (Some(false), _) if self.of_config("save") == Some("") => (
                "appendonly no, and no snapshots: a crash takes everything",
                Some("appendonly no: a restart loses every booking; set `appendonly yes` and `appendfsync always`"),
            ),
            (Some(false), _) => (
                "appendonly no: a crash takes all since the last snapshot",
                Some("appendonly no: answered bookings can be lost; set `appendonly yes` and `appendfsync always`"),
            ),
            (None, _) => ("what a crash takes is unknown: INFO is not allowed", None),
        };
        facts.durability.push(line.to_owned());
        facts.problems.extend(problem.map(str::to_owned));
        for (key, what) in [("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")] {
            if self.of_info(key).is_some_and(|status| status != "ok") {
                facts.problems.push(format!("its last write to the {what} failed; see its log and free space"));
            }
        }
    }

    /// What a fail-over takes.
    fn replication(&self, facts: &mut ServerFacts, waited_for: Option<u32>) {
        if facts.is_replica {
            facts.problems.push("it is a replica and takes no writes; name the primary in the store's URL".to_owned());
            return;
        }
        let replicas = self.number("connected_slaves");
        facts.durability.push(match (replicas, waited_for) {
            _ if self.info.is_empty() => "replicas unknown: INFO is not allowed".to_owned(),
            (0, None) => "no replicas: what it loses is lost".to_owned(),
            (_, None) => {
                format!("{replicas} replicas, asynchronous: a fail-over takes what had not reached the new primary")
            }
            (_, Some(count)) => format!("{replicas} replicas; an answer waits until {count} have it (wait_replicas)"),
        });
        if let Some(least) = self.of_config("min-replicas-to-write").filter(|least| *least != "0") {
            facts.durability.push(format!("min-replicas-to-write {least}: with fewer it takes no bookings"));
        }
        if let Some(count) = waited_for.filter(|count| u64::from(*count) > replicas) {
            facts.problems.push(format!(
                "wait_replicas={count}, and {replicas} are connected: every booking will be uncertain; bring them back or \
                 correct the store's URL"
            ));
        }
    }

    /// What would make it lose what it must keep.
    fn fitness(&self, facts: &mut ServerFacts) {
        let policy = self.of_info("maxmemory_policy").or_else(|| self.of_config("maxmemory-policy"));
        match policy {
            Some("noeviction") => {}
            Some(policy) => facts.problems.push(format!(
                "maxmemory-policy {policy}: short of memory it throws away leases and bookings; set `maxmemory-policy \
                 noeviction`"
            )),
            None => facts.durability.push("maxmemory-policy unknown: it must be noeviction".to_owned()),
        }
        if self.of_info("cluster_enabled") == Some("1") {
            facts.problems.push(
                "it is a node of a Redis Cluster, which triplock does not follow; name a server outside of one"
                    .to_owned(),
            );
        }
        let version = self.of_info("redis_version").and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        if version.is_some_and(|version| version < 7) {
            facts.problems.push("it is too old: scripts need Redis 7 or later; upgrade it".to_owned());
        }
    }
}
