use super::Server;
use crate::store::ServerFacts;

#[track_caller]
fn problem(facts: &ServerFacts, words: &str) {
    assert!(facts.problems.iter().any(|problem| problem.contains(words)), "{facts:?}");
}

#[test]
fn what_a_server_promises_is_read_from_it() {
    let Some(server) = Server::start() else { return };
    let facts = || server.session().facts().unwrap();
    let found = facts();
    assert!(found.product.starts_with("Redis ") && !found.is_replica && !found.is_encrypted, "{found:?}");
    assert_eq!(found.durability[0], "appendonly no, and no snapshots: a crash takes everything");
    problem(&found, "a restart loses every booking");

    server.cli(&["CONFIG", "SET", "appendonly", "yes"]);
    problem(&facts(), "appendfsync everysec: answered bookings can be lost");
    server.cli(&["CONFIG", "SET", "appendfsync", "always"]);
    let found = facts();
    assert_eq!(
        found.durability,
        ["appendfsync always: an answer is on its disk", "no replicas: what it loses is lost"]
    );
    assert_eq!(found.problems, [""; 0]);

    server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "min-replicas-to-write", "2"]);
    let found = facts();
    problem(&found, "maxmemory-policy allkeys-lru: short of memory it throws away leases and bookings");
    assert_eq!(found.durability[2], "min-replicas-to-write 2: with fewer it takes no bookings");

    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    assert!(facts().is_replica);
    problem(&facts(), "it is a replica and takes no writes");
}

#[test]
fn what_a_server_does_not_say_is_unknown() {
    let Some(server) = Server::start() else { return };
    server.cli(&["CONFIG", "SET", "appendonly", "yes"]);
    let refuse = |command: &str| server.cli(&["ACL", "SETUSER", "default", command]);
    refuse("-config");
    let found = server.session().facts().unwrap();
    assert_eq!(found.durability[0], "appendonly yes; appendfsync unknown: CONFIG GET is not allowed");
    refuse("-info");
    let found = server.session().facts().unwrap();
    assert_eq!(found.product, "Redis of an unknown version");
    assert!(found.durability.iter().all(|line| line.contains("unknown")), "{found:?}");
}
