use super::*;

#[track_caller]
fn url(given: &str) -> StoreUrl {
    given.parse().unwrap_or_else(|why| panic!("{given}: {why}"))
}

#[track_caller]
fn refused(given: &str) -> String {
    given.parse::<StoreUrl>().expect_err(given)
}

fn tcp(name: &str, port: u16) -> Host {
    Host::Tcp(name.to_owned(), port)
}

#[test]
fn each_form_means_a_place() {
    for (given, hosts, database) in [
        ("redis://h", vec![tcp("h", 6379)], None),
        ("redis://h:1/2", vec![tcp("h", 1)], Some("2")),
        ("redis://h/?db=3", vec![tcp("h", 6379)], Some("3")),
        ("rediss://[::1]:7", vec![tcp("::1", 7)], None),
        ("redis+unix:///run/redis.sock", vec![Host::Unix("/run/redis.sock".into(), 0)], None),
        ("redis+unix:///run/re%20dis?db=1", vec![Host::Unix("/run/re dis".into(), 0)], Some("1")),
        ("postgres://h", vec![tcp("h", 5432)], None),
        ("postgresql://bob@h:1/trips", vec![tcp("h", 1)], Some("trips")),
        ("postgres://[fe80::1%25eth0]/a%2Fb", vec![tcp("fe80::1%eth0", 5432)], Some("a/b")),
        ("postgres://a,b:2,[::1]:3/d", vec![tcp("a", 5432), tcp("b", 2), tcp("::1", 3)], Some("d")),
        ("postgres:///d?host=/run/postgresql", vec![Host::Unix("/run/postgresql".into(), 5432)], Some("d")),
        ("postgres://%2Frun%2Fpg:6/d", vec![Host::Unix("/run/pg".into(), 6)], Some("d")),
        ("postgres:///?host=a,b&port=1,2&dbname=d", vec![tcp("a", 1), tcp("b", 2)], Some("d")),
        ("postgres:///d?host=a,::1&port=7", vec![tcp("a", 7), tcp("::1", 7)], Some("d")),
    ] {
        let found = url(given);
        assert_eq!((&found.hosts, found.database()), (&hosts, database), "{given}");
        assert_eq!(url(&found.secret_text()), found, "{}", found.secret_text());
    }
}

#[test]
fn users_and_passwords_may_have_odd_characters() {
    for (given, user, password) in [
        ("redis://:s3cret@h", None, Some("s3cret")),
        ("redis://bob@h", Some("bob"), None),
        ("redis://bob:@h", Some("bob"), None),
        ("postgres://b%40b:p%3A%2F%25@h/d", Some("b@b"), Some("p:/%")),
        // Nothing else can be meant.
        ("postgres://bob:p@ss:w:rd!$&'()*+,;=@h/d", Some("bob"), Some("p@ss:w:rd!$&'()*+,;=")),
        ("postgres://héléna:ключ@h/d", Some("héléna"), Some("ключ")),
        ("postgres:///d?host=h&user=bob&password=a%26b", Some("bob"), Some("a&b")),
        ("redis+unix://bob:s3cret@/s", Some("bob"), Some("s3cret")),
    ] {
        let found = url(given);
        assert_eq!((found.user(), found.password().map(Secret::reveal)), (user, password), "{given}");
    }
}

#[test]
fn a_url_is_shown_short_and_without_its_password() {
    for (given, shown) in [
        ("redis://:s3cret@127.0.0.1/0", "redis://127.0.0.1:6379"),
        ("redis://bob:s3cret@h:1/2?wait_replicas=1", "redis://bob@h:1/2"),
        ("rediss://[::1]?sslmode=require", "rediss://[::1]:6379"),
        ("redis+unix://:s3cret@/run/r%20s?db=1", "redis+unix:///run/r%20s?db=1"),
        ("postgresql://bob:s3cret@db.example.org/trips?sslmode=disable", "postgres://bob@db.example.org:5432/trips"),
        ("postgres://b%0Ab@a,b/d%2F", "postgres://b%0Ab@a:5432,b:5432/d%2F"),
        ("postgres:///d?host=/run/postgresql&password=s3cret", "postgres:///d?host=/run/postgresql"),
        ("postgres://u@h", "postgres://u@h:5432"),
    ] {
        let found = url(given);
        assert_eq!(found.to_string(), shown, "{given}");
        assert_eq!(format!("{found:?}"), format!("StoreUrl({shown})"));
        assert_eq!(url(&found.secret_text()), found, "{}", found.secret_text());
        // (What is shown means the same server.)
        let again = url(shown);
        assert_eq!((again.user(), again.database().unwrap_or("0")), (found.user(), found.database().unwrap_or("0")));
    }
}

#[test]
fn what_leaves_the_machine_is_encrypted_and_verified_unless_somebody_insists() {
    for (given, encryption, warns) in [
        ("postgres://127.0.0.1/d", Encryption::Off, false),
        ("postgres://127.9.9.9/d", Encryption::Off, false),
        ("postgres://[::1]/d", Encryption::Off, false),
        ("postgres://[::ffff:127.0.0.1]/d", Encryption::Off, false),
        ("postgres://localhost/d", Encryption::Off, false),
        ("postgres:///d?host=/run", Encryption::Off, false),
        ("postgres://h/d", Encryption::Full, false),
        ("postgres://localhost.example.org/d", Encryption::Full, false),
        ("postgres://localhost,h/d", Encryption::Full, false),
        ("postgres://10.0.0.1/d?sslmode=verify-ca", Encryption::Authority, false),
        ("postgres://localhost/d?sslrootcert=/ca.pem", Encryption::Full, false),
        ("postgres://h/d?sslmode=disable", Encryption::Off, true),
        ("postgres://h/d?sslmode=require", Encryption::Unverified, true),
        ("postgres://127.0.0.1/d?sslmode=require", Encryption::Unverified, false),
        ("redis://127.0.0.1", Encryption::Off, false),
        ("redis://h", Encryption::Off, true),
        ("redis://h?sslmode=disable", Encryption::Off, true),
        ("rediss://h", Encryption::Full, false),
        ("rediss://localhost", Encryption::Full, false),
        ("rediss://h?sslmode=require", Encryption::Unverified, true),
    ] {
        let found = url(given);
        assert_eq!(url(&found.secret_text()), found, "{}", found.secret_text());
        assert_eq!((found.encryption(), found.warning().is_some()), (encryption, warns), "{given}");
    }
    assert_eq!(url("rediss://h?sslrootcert=/ca.pem").root_certificates(), Some(Path::new("/ca.pem")));
    assert_eq!(url("rediss://h?sslrootcert=system").root_certificates(), None);
}

#[test]
fn the_rest_is_said_after_a_question_mark() {
    assert_eq!(url("postgres://a,b/d").target, Target::Primary);
    assert_eq!(url("postgres://a,b/d?target_session_attrs=any").target, Target::Any);
    assert_eq!(url("postgres://a/d?target_session_attrs=primary").target, Target::Primary);
    let waits = url("redis://h?wait_replicas=1&wait_timeout=0.5");
    assert_eq!(url(&waits.secret_text()), waits);
    assert_eq!((waits.wait_replicas(), waits.wait_timeout()), (Some(1), Some(Duration::from_millis(500))));
}

#[test]
fn each_refusal_says_what_to_do_and_quotes_nothing() {
    for (given, why) in [
        ("", FORM),
        ("nonsense", FORM),
        ("mysql://h", FORM),
        ("REDIS://h", FORM),
        ("redis://", "the host is missing: give "),
        ("postgres://bob@/d", "the host is missing: give "),
        ("postgres://a,,b/d", "the host is missing: give "),
        ("redis://a,b", "it names several servers"),
        ("redis://h h", "a space or control character is in the URL"),
        ("redis://h:0", "the port is not a number from 1 to 65535"),
        ("redis://h:+1", "the port is not a number from 1 to 65535"),
        ("redis://:pa/ss@h", "an @ or # stands after the host"),
        ("redis://:pa?ss@h", "an @ or # stands after the host"),
        ("redis://:pa#ss@h", "an @ or # stands after the host"),
        ("redis://:pa", "the port is not a number from 1 to 65535"),
        ("redis://::1", "too many colons; an IPv6 address is written in brackets: [::1]"),
        ("redis://[::1", "the ] after an IPv6 address is missing"),
        ("redis://[::x]", "what stands in [] is not an IPv6 address"),
        ("redis://[::1]6379", "something stands after an IPv6 address that is no port"),
        ("redis://h!", "the host has characters that no host's name has"),
        ("redis://h/x", "the database is a number of Redis"),
        ("redis://h/1?db=2", "the database is given twice"),
        ("redis://u%:p@h", "the user: a % in it is not followed by two hexadecimal digits"),
        ("redis://u:%p@h", "the password: a % in it is not followed by two hexadecimal digits"),
        ("redis+unix://h/s", "redis+unix:// has no host"),
        ("redis+unix:///", "the socket is missing"),
        ("redis+unix:///s?sslmode=verify-full", "sslmode contradicts the scheme"),
        ("redis://h?sslmode=require", "sslmode contradicts the scheme; for TLS give rediss://"),
        ("rediss://h?sslmode=disable", "sslmode contradicts the scheme; for no TLS give redis://"),
        ("redis://h?sslrootcert=/ca", "sslrootcert without TLS"),
        ("redis://h?wait_replicas=x", "wait_replicas is not a whole number"),
        ("redis://h?wait_timeout=0", "wait_timeout is not a duration"),
        ("redis://h?wait_replica=1", "parameter 1 is unknown; did you mean wait_replicas?"),
        ("redis://h?db=1&dbname=x", "parameter 2 is unknown; known are db, user,"),
        ("redis://h?db=1&db=1", "db is given twice"),
        ("postgres://h/d/e", "a database has no / in its name"),
        ("postgres://h/d?host=x", "the host is given twice"),
        ("postgres:///d?host=a,b&port=1,2,3", "there are not as many ports as hosts"),
        ("postgres://u:p@h/d?password=q", "the password is given twice"),
        ("postgres://h/d?ssl_mode=require", "parameter 1 is unknown; did you mean sslmode?"),
        ("postgres://h/d?sslmode=prefer", "sslmode: prefer and allow go on in plain text"),
        ("postgres://h/d?sslmode=on", "sslmode is disable, require, verify-ca or verify-full"),
        ("postgres:///d?host=/s&sslmode=require", "there is no TLS on a Unix socket"),
        ("postgres://h/d?sslmode=require&sslrootcert=/ca", "sslmode=require verifies nothing"),
        ("postgres://h/d?sslrootcert=ca.pem", "sslrootcert is not an absolute path"),
        ("postgres://h/d?target_session_attrs=standby", "target_session_attrs: a store is written to"),
        ("postgres://h/d?target_session_attrs=x", "target_session_attrs is any or read-write"),
    ] {
        let found = refused(given);
        assert!(found.starts_with(why), "{given}: {found}");
        assert_eq!(found.lines().count(), 1);
    }
}

const FORM: &str = "give redis://HOST, rediss://HOST or postgres://HOST/DATABASE";
