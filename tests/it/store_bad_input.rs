//! Stores on servers that are not there, not right or not ours, and URLs and passwords in every place that they may come
//! from: each mistake is one line and the exit code of its kind, and no password is shown to anybody.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    sandbox::{Finished, Sandbox, TRIPLOCK},
    servers::{Postgres, Redis},
};

/// In no word of ours, and in every way odd.
const PASSWORD: &str = "Zq7/p@s?s:w#r%d&é+='x";
const ENCODED: &str = "Zq7%2Fp%40s%3Fs%3Aw%23r%25d%26%C3%A9%2B%3D%27x";
/// What of it must be nowhere.
const MARK: &str = "Zq7";

/// PostgreSQL with a user bob, whose password is that, and his database.
fn postgres() -> Postgres {
    let server = Postgres::plan().wanting_passwords().start();
    server.sql(&format!("CREATE ROLE bob LOGIN PASSWORD '{}'", PASSWORD.replace('\'', "''")));
    server.sql("CREATE DATABASE trips OWNER bob");
    server
}

fn redis() -> Redis {
    Redis::plan().with_password(PASSWORD).start()
}

/// `postgres://bob:secret@…` of `postgres://triplock@…`.
fn as_user(url: &str, user: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    format!("{scheme}://{user}@{place}")
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Every kind of command fails with the code of its kind, in one line that has those words and no password.
#[track_caller]
fn everything_fails(url: &str, code: i32, words: &str) {
    let sandbox = Sandbox::new().with_store(url);
    let fails = |arguments: &[&str], code: i32| {
        let finished = sandbox.triplock(arguments).run();
        let error = finished.fails(code);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{arguments:?}: no {words:?} in {message}");
        shows_no_password(&finished);
    };
    fails(&["trip", "add", "1", "--seats", "1"], code);
    fails(&["book", "1", "--student", "7"], code);
    fails(&["trip", "list"], code);
    fails(&["status"], code);
    fails(&["history"], code);
    fails(&["run", "nightly", "--", "touch", sandbox.path("ran").to_str().unwrap()], 125);
    assert!(!sandbox.path("ran").exists(), "the job ran without its lock");
    let check = sandbox.triplock(["check"]).in_text().run();
    assert!(check.code() == Some(3) && check.stdout.contains(words), "{}", check.stdout);
    shows_no_password(&check);
    let doctor = sandbox.triplock(["doctor", "--root", "/none/such"]).run();
    assert!(doctor.code() == Some(78) && doctor.stdout.contains(words), "{}", doctor.stdout);
    shows_no_password(&doctor);
}

#[track_caller]
fn shows_no_password(finished: &Finished) {
    let shown = format!("{}{}", finished.stdout, finished.stderr);
    assert!(!shown.contains(MARK) && !shown.contains("x0x0"), "{shown}");
}

#[test]
fn who_is_not_let_in_is_told_so() {
    if Redis::is_installed("store_bad_input::who_is_not_let_in_is_told_so") {
        let redis = redis();
        everything_fails(&redis.url(), 77, "it asks for a password; give one in $TRIPLOCK_STORE_PASSWORD or a file");
        everything_fails(&as_user(&redis.url(), ":x0x0"), 77, "it refuses that user name or password");
        everything_fails(
            &as_user(&redis.url(), &format!("nobody:{ENCODED}")),
            77,
            "it refuses that user name or password",
        );
        let open = Redis::start();
        everything_fails(&as_user(&open.url(), ":x0x0"), 77, "a password was given, and it has none");
    }
    if Postgres::is_installed("store_bad_input::who_is_not_let_in_is_told_so") {
        let postgres = postgres();
        let url = postgres.url_of("trips");
        everything_fails(&as_user(&url, "bob:x0x0"), 77, "password authentication failed for user");
        everything_fails(&as_user(&url, &format!("nobody:{ENCODED}")), 77, "password authentication failed");
        everything_fails(&as_user(&url, "bob"), 77, "it asks for a password; give one in $TRIPLOCK_STORE_PASSWORD");
    }
}

#[test]
fn a_database_that_is_not_there_is_a_wrong_configuration() {
    if Redis::is_installed("store_bad_input::a_database_that_is_not_there_is_a_wrong_configuration") {
        let redis = Redis::start();
        everything_fails(&format!("{}/999", redis.url()), 78, "it has no database of that number");
    }
    if Postgres::is_installed("store_bad_input::a_database_that_is_not_there_is_a_wrong_configuration") {
        let url = Postgres::shared().url_of("nowhere");
        everything_fails(&url, 78, " does not exist; create it");
    }
}

#[test]
fn a_replica_is_not_the_store() {
    if Redis::is_installed("store_bad_input::a_replica_is_not_the_store") {
        let primary = Redis::start();
        let replica = primary.replica();
        let sandbox = Sandbox::new().with_store(&replica.url());
        let error = sandbox.add("1", 1).fails(78);
        assert!(error["message"].as_str().unwrap().contains("it is a replica and takes no writes"), "{error}");
        sandbox.run("nightly", &[], &["true"]).exits(125);
    }
    if Postgres::is_installed("store_bad_input::a_replica_is_not_the_store") {
        let primary = Postgres::start();
        let set_up = Sandbox::new().with_store(&primary.url());
        set_up.add("1", 1).succeeds();
        let replica = primary.replica();
        let sandbox = Sandbox::new().with_store(&replica.url());
        let error = sandbox.add("2", 1).fails(78);
        assert!(error["message"].as_str().unwrap().contains("it is a replica or set to read only"), "{error}");
        // Named together, the one that takes writes is found.
        let (first, second) = (replica.url(), primary.url());
        let rest = second.rsplit_once('@').unwrap().1;
        let both = format!("{},{rest}", first.rsplit_once('/').unwrap().0);
        Sandbox::new().with_store(&both).add("2", 1).succeeds();
    }
}

#[test]
fn a_server_that_is_down_is_told_at_once() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    everything_fails(&format!("redis://:x0x0@127.0.0.1:{free}"), 69, "nothing listens there");
    everything_fails(&format!("postgres://bob:x0x0@127.0.0.1:{free}/d"), 69, "refused");
    everything_fails("redis+unix:///none/such", 69, "there is no such socket");
    everything_fails("postgres://bob@%2Fnone%2Fsuch/d", 69, "No such file or directory");
}

/// Whatever does not answer, a command waits for it some 10 s and no longer.
#[test]
fn a_server_that_never_answers_is_given_up() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = deaf.local_addr().unwrap().port();
    let sandbox = Sandbox::new();
    let urls = [
        format!("redis://127.0.0.1:{port}"),
        format!("redis://:x0x0@127.0.0.1:{port}/1"),
        format!("rediss://127.0.0.1:{port}?sslmode=require"),
        format!("postgres://bob:x0x0@127.0.0.1:{port}/d"),
        format!("postgres://bob:x0x0@127.0.0.1:{port}/d?sslmode=require"),
    ];
    let add = |url: &str| sandbox.add("1", 1).env("TRIPLOCK_STORE", url).start();
    let mut started: Vec<_> = urls.iter().map(|url| (url, add(url), [69, 74].as_slice())).collect();
    let redis = Redis::is_installed("store_bad_input::a_server_that_never_answers_is_given_up").then(Redis::start);
    let redis_url = redis.as_ref().map(Redis::url);
    if let (Some(redis), Some(url)) = (&redis, &redis_url) {
        redis.stop_answering();
        started.push((url, add(url), &[69, 74]));
    }
    let postgres =
        Postgres::is_installed("store_bad_input::a_server_that_never_answers_is_given_up").then(Postgres::start);
    let postgres_url = postgres.as_ref().map(Postgres::url);
    if let (Some(postgres), Some(url)) = (&postgres, &postgres_url) {
        postgres.stop_answering();
        started.push((url, add(url), &[69]));
    }
    for (url, running, codes) in started {
        let finished = running.finish();
        let code = finished.code().unwrap();
        assert!(codes.contains(&code), "{url}: {code} {}", finished.stderr);
        let range = Duration::from_secs(8)..Duration::from_secs(40);
        assert!(range.contains(&finished.took), "{url}: {:?}", finished.took);
        shows_no_password(&finished);
    }
}

#[test]
fn every_way_to_the_server_leads_to_one_store() {
    let same = |urls: &[String]| {
        let (first, others) = urls.split_first().unwrap();
        Sandbox::new().with_store(first).add("1", 40).succeeds();
        for (number, url) in others.iter().enumerate() {
            let answer = Sandbox::new().with_store(url).book("1", &number.to_string()).succeeds();
            assert_eq!(answer.seats_left, Some(39 - number as u64), "{url}");
        }
    };
    if Redis::is_installed("store_bad_input::every_way_to_the_server_leads_to_one_store") {
        let redis = Redis::plan().listening("127.0.0.1 ::1").with_password(PASSWORD).start();
        redis.cli(["ACL", "SETUSER", "b@b:/é", "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"]);
        let port = redis.port();
        let socket = redis.socket();
        let who = format!("b%40b%3A%2F%C3%A9:{ENCODED}");
        same(&[
            format!("redis://{who}@127.0.0.1:{port}/3"),
            format!("redis://{who}@[::1]:{port}/3"),
            format!("redis://:{ENCODED}@localhost:{port}?db=3"),
            format!("redis+unix://{who}@{}?db=3", socket.display()),
            format!("{}?db=3&password={ENCODED}", redis.socket_url()),
        ]);
        let elsewhere = format!("redis://{who}@[::1]:{port}");
        Sandbox::new().with_store(&elsewhere).book("1", "7").fails(66);
    }
    if Postgres::is_installed("store_bad_input::every_way_to_the_server_leads_to_one_store") {
        let postgres = Postgres::plan().listening("127.0.0.1,::1").wanting_passwords().start();
        postgres.sql(&format!("CREATE ROLE \"b@b:/é\" LOGIN PASSWORD '{}'", PASSWORD.replace('\'', "''")));
        postgres.sql("CREATE DATABASE \"tri ps/?#%é\" OWNER \"b@b:/é\"");
        let (port, database) = (postgres.port(), "tri%20ps%2F%3F%23%25%C3%A9");
        let directory = postgres.directory().display().to_string();
        let who = format!("b%40b%3A%2F%C3%A9:{ENCODED}");
        same(&[
            format!("postgres://{who}@127.0.0.1:{port}/{database}"),
            format!("postgresql://{who}@[::1]:{port}/{database}"),
            format!("postgres://{who}@localhost:{port}/{database}?target_session_attrs=read-write"),
            // (The socket asks for no password.)
            format!("postgres:///{database}?host={directory}&port={port}&user=b%40b%3A%2F%C3%A9"),
            format!("postgres://b%40b%3A%2F%C3%A9@{}:{port}/{database}", directory.replace('/', "%2F")),
            // The first that answers.
            format!("postgres://{who}@127.0.0.1:1,[::1]:{port}/{database}"),
        ]);
    }
}

/// Where each password may come from, and what is refused there.
#[test]
fn a_password_comes_from_where_nobody_else_looks() {
    if !Postgres::is_installed("store_bad_input::a_password_comes_from_where_nobody_else_looks") {
        return;
    }
    let server = postgres();
    let url = as_user(&server.url_of("trips"), "bob");
    let home = Sandbox::new();
    let path = |name: &str| -> PathBuf { home.path("home").join(name) };
    let sandbox = || {
        let plain = Sandbox::new().with_env("HOME", home.path("home")).with_env("XDG_CONFIG_HOME", path("config"));
        plain.with_store(&url)
    };
    sandbox().add("1", 1).fails(77);
    sandbox().with_env("TRIPLOCK_STORE_PASSWORD", PASSWORD).add("1", 1).succeeds();
    sandbox().with_env("PGPASSWORD", PASSWORD).show("1").shows_seats_left(1);
    let refused = |sandbox: &Sandbox, path: &Path| {
        let finished = sandbox.show("1").run();
        let error = finished.fails(78);
        let message = error["message"].as_str().unwrap();
        assert!(message.ends_with(&format!("chmod 600 {}", path.display())), "{message}");
        shows_no_password(&finished);
    };
    for mode in [0o644, 0o640, 0o660] {
        write(&path("password"), &format!("{PASSWORD}\n"), mode);
        refused(&sandbox().with_env("TRIPLOCK_STORE_PASSWORD_FILE", path("password")), &path("password"));
    }
    write(&path("password"), &format!("{PASSWORD}\n"), 0o600);
    sandbox().with_env("TRIPLOCK_STORE_PASSWORD_FILE", path("password")).show("1").shows_seats_left(1);
    // config.toml, which names the store too.
    let config = path("config/triplock/config.toml");
    let of_config = || Sandbox::new().with_env("HOME", path("")).with_env("XDG_CONFIG_HOME", path("config"));
    let both = format!("store = '{url}'\nstore_password_file = '{}'\n", path("password").display());
    write(&config, &both, 0o644);
    of_config().show("1").shows_seats_left(1);
    of_config().triplock(["--store", &url, "trip", "show", "1"]).shows_seats_left(1);
    of_config().triplock(["--store", "files", "trip", "show", "1"]).fails(66);
    of_config().with_store("files").show("1").fails(66);
    fs::set_permissions(path("password"), fs::Permissions::from_mode(0o604)).unwrap();
    refused(&of_config(), &path("password"));
    let secret = as_user(&url, &format!("bob:{ENCODED}"));
    write(&config, &format!("\nstore = \"{secret}\"\n"), 0o644);
    let finished = of_config().show("1").run();
    let error = finished.fails(78);
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains(&format!(
            "line 2: store has a password in it and others than its owner may read the file; chmod 600 {}",
            config.display()
        )),
        "{message}"
    );
    assert_eq!(error["line"], 2);
    shows_no_password(&finished);
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    of_config().show("1").shows_seats_left(1);
    fs::remove_file(&config).unwrap();
    // ~/.pgpass, and another one.
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    let line = format!("# mine\n*:{}:trips:bob:{escaped}\n", server.port());
    write(&path(".pgpass"), &line, 0o600);
    sandbox().show("1").shows_seats_left(1);
    fs::rename(path(".pgpass"), path("passes")).unwrap();
    sandbox().show("1").fails(77);
    sandbox().with_env("PGPASSFILE", path("passes")).show("1").shows_seats_left(1);
    // As psql, it passes over one that is open.
    fs::set_permissions(path("passes"), fs::Permissions::from_mode(0o644)).unwrap();
    let finished = sandbox().with_env("PGPASSFILE", path("passes")).show("1").run();
    finished.exits(77);
    assert!(finished.stderr.contains("it is passed over"), "{}", finished.stderr);
    shows_no_password(&finished);
    let doctor = sandbox().with_env("PGPASSFILE", path("passes")).triplock(["doctor", "--root", "/none/such"]).run();
    assert!(doctor.stdout.contains("\"problem\":\"open_password_file\""), "{}", doctor.stdout);
    let doctor =
        sandbox().with_env("TRIPLOCK_STORE_PASSWORD", PASSWORD).triplock(["doctor", "--root", "/none/such"]).run();
    assert!(doctor.exits(0).stdout.contains("\"password_from\":\"$TRIPLOCK_STORE_PASSWORD\""), "{}", doctor.stdout);
}

/// A problem for each thing that may be lost, and the rest for who wants to know.
#[test]
fn doctor_shows_what_a_store_is_and_may_lose() {
    let test = "store_bad_input::doctor_shows_what_a_store_is_and_may_lose";
    let lines = |sandbox: &Sandbox, code: i32| -> Vec<Value> {
        let finished = sandbox.triplock(["doctor", "--root", "/none/such"]).run();
        finished.exits(code).stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let problems = |lines: &[Value]| -> Vec<String> {
        lines.iter().filter(|line| line["problem"] == "unfit_store").map(|line| line["message"].to_string()).collect()
    };
    let store = |lines: &[Value]| lines.iter().find(|line| line["named_by"].is_string()).cloned().unwrap();
    if Redis::is_installed(test) {
        let durable = Redis::start();
        let found = lines(&Sandbox::new().with_store(&durable.url()), 0);
        let told = store(&found);
        assert_eq!((&told["store"], &told["named_by"]), (&durable.url().into(), &"$TRIPLOCK_STORE".into()));
        assert!(told["product"].as_str().unwrap().starts_with("Redis ") && told["encrypted"] == false, "{told}");
        assert_eq!(told["durability"][0], "appendfsync always: an answer is on its disk");
        let mut quick = Redis::plan().setting("appendfsync everysec").start();
        let sandbox = Sandbox::new().with_store(&quick.url());
        let said = problems(&lines(&sandbox, 78)).concat();
        assert!(said.contains("set `appendfsync always`"), "{said}");
        quick.shut_down();
        let found = lines(&sandbox, 78);
        assert_eq!((&found[0]["problem"], &found[0]["server"]), (&"server_unreachable".into(), &quick.url().into()));
        assert_eq!(store(&found)["product"], Value::Null);
    }
    if Postgres::is_installed(test) {
        let shared = Postgres::shared();
        let database = shared.database();
        let found = lines(&Sandbox::new().with_store(&database.url()), 0);
        assert!(store(&found)["product"].as_str().unwrap().starts_with("PostgreSQL "), "{found:?}");
        let quick = Postgres::plan().setting("fsync", "off").start();
        let said = problems(&lines(&Sandbox::new().with_store(&quick.socket_url()), 78)).concat();
        assert!(said.contains("set `fsync = on`"), "{said}");
        let shown =
            Sandbox::new().with_store(&quick.url()).triplock(["doctor", "--root", "/none/such"]).in_text().run();
        let line = format!("store: {} (named by $TRIPLOCK_STORE): PostgreSQL ", quick.url());
        assert!(shown.stdout.contains(&line), "{}", shown.stdout);
    }
}

#[test]
fn a_wrong_store_is_a_wrong_command_line() {
    let refused = |words: &[&str], code: i32, start: &str| {
        let sandbox = Sandbox::new();
        let finished = sandbox.triplock(words).run();
        let error = finished.fails(code);
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(start), "{words:?}: {message}");
        shows_no_password(&finished);
        assert!(!sandbox.state_dir().exists());
    };
    let secret = &*format!("redis://:{ENCODED}@127.0.0.1");
    let raw = &*format!("redis://:{PASSWORD}@127.0.0.1");
    let no_password = "--store <URL>: a command line is shown to everybody by ps, so no password belongs there";
    refused(&["--store", secret, "trip", "list"], 64, no_password);
    refused(&["trip", "list", "--store", "postgres://h/d?password=x0x0"], 64, no_password);
    refused(&["--store", secret, "run", "x", "--", "true"], 125, no_password);
    refused(&["update", "f", "--store", secret, "--", "cat"], 125, no_password);
    refused(&["--store", raw, "trip", "list"], 64, "--store <URL>: an @ or # stands after the host");
    refused(&[secret, "trip", "list"], 64, "unrecognized subcommand");
    refused(&["--stor", secret, "trip", "list"], 64, "unexpected argument '--stor' found");
    refused(&["book", secret, "--student", "7"], 64, "<TRIP>: invalid name");
    refused(&["--store", "nonsense", "trip", "list"], 64, "--store <URL>: give redis://HOST");
    let twice = ["--store", "redis://127.0.0.1", "--store", "files"];
    let once = "--store is given more than once; only race takes several";
    refused(&[&twice[..], &["trip", "list"]].concat(), 64, once);
    refused(&[&twice[..], &["run", "x", "--", "true"]].concat(), 125, once);
    let check = Sandbox::new().triplock(["--store", secret, "check"]).in_text().run();
    assert!(check.code() == Some(3) && check.stdout.starts_with("TRIPLOCK UNKNOWN - "), "{}", check.stdout);
    shows_no_password(&check);
    for (given, why) in [
        ("nonsense", "$TRIPLOCK_STORE: give redis://HOST"),
        (raw, "$TRIPLOCK_STORE: an @ or # stands after the host"),
        ("redis://h?wait_replica=1", "$TRIPLOCK_STORE: parameter 1 is unknown; did you mean wait_replicas?"),
    ] {
        let finished = Sandbox::new().with_store(given).triplock(["trip", "list"]).run();
        let error = finished.fails(64);
        assert!(error["message"].as_str().unwrap().starts_with(why), "{error}");
        shows_no_password(&finished);
        Sandbox::new().with_store(given).run("x", &[], &["true"]).exits(125);
    }
    // `flock` locks what it is given, whatever the store is.
    let sandbox = Sandbox::new();
    let file = sandbox.path("file");
    sandbox.triplock(["flock"]).arg(&file).arg("true").env("TRIPLOCK_STORE", "nonsense").in_text().run().exits(0);
}

/// After commands that succeed and commands that fail, the password is in nothing that anybody could look at.
#[test]
fn a_password_is_left_nowhere() {
    let series = |url: &str| {
        let sandbox = Sandbox::new().with_store(url);
        let mut seen = String::new();
        let mut keep = |finished: Finished| seen.extend([finished.stdout, finished.stderr]);
        keep(sandbox.add("1", 1).run());
        keep(sandbox.book("1", "7").run());
        keep(sandbox.book("1", "8").run());
        keep(sandbox.book("2", "8").run());
        keep(sandbox.triplock(["trip", "show", "1", "--bookings"]).run());
        // What the job sees of the command lines above it, and of those that a race starts.
        let look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; exit 3";
        keep(sandbox.run("nightly", &["--output", "capture"], &["sh", "-c", look]).run());
        keep(sandbox.triplock(["logs", "nightly"]).in_text().run());
        keep(sandbox.run("nightly", &[], &["/none/such"]).run());
        keep(
            sandbox
                .triplock([
                    "race",
                    "--lock",
                    if url.starts_with("redis") { "redis" } else { "postgres" },
                    "--delay",
                    "0-1",
                ])
                .run(),
        );
        for words in ["status", "history", "check", "doctor --root /none/such", "-v trip list", "status nightly --why"]
        {
            keep(sandbox.triplock(words.split(' ')).run());
            keep(sandbox.triplock(words.split(' ')).in_text().run());
        }
        assert!(seen.contains(TRIPLOCK) && seen.contains("sold_out"), "{seen}");
        assert!(!seen.contains(MARK), "{seen}");
        let grep =
            std::process::Command::new("grep").args(["-r", "-l", MARK]).arg(sandbox.state_dir()).output().unwrap();
        assert!(grep.stdout.is_empty(), "{}", String::from_utf8_lossy(&grep.stdout));
    };
    if Redis::is_installed("store_bad_input::a_password_is_left_nowhere") {
        let redis = redis();
        series(&as_user(&redis.url(), &format!(":{ENCODED}")));
        let kept = redis.directory().join("appendonlydir");
        let grep = std::process::Command::new("grep").args(["-r", "-c", MARK]).arg(&kept).output().unwrap();
        assert_eq!(grep.status.code(), Some(1), "{}", String::from_utf8_lossy(&grep.stdout));
    }
    if Postgres::is_installed("store_bad_input::a_password_is_left_nowhere") {
        let postgres = postgres();
        series(&as_user(&postgres.url_of("trips"), &format!("bob:{ENCODED}")));
        let tables = postgres.sql_in(
            "trips",
            "SELECT string_agg(table_name, ' ') FROM information_schema.tables WHERE table_schema = 'triplock'",
        );
        assert!(!tables.is_empty());
        for table in tables.split(' ') {
            let rows = postgres.sql_in("trips", &format!("SELECT * FROM triplock.{table}"));
            assert!(!rows.contains(MARK), "{table}: {rows}");
        }
    }
}
