//! Whatever is given as a URL, nothing panics and no password comes out.

use proptest::prelude::*;

use super::*;

/// Every way in which a URL speaks.
fn said(given: &str) -> String {
    match given.parse::<StoreUrl>() {
        Ok(url) => format!("{url} {url:?} {:?} {:?}", url.warning(), crate::store::StoreChoice::Server(url.clone())),
        Err(why) => why,
    }
}

/// Text that is likely to be understood in part.
fn like_a_url() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => prop::sample::select(vec![
            "redis", "rediss", "redis+unix", "postgres", "postgresql", "://", "/", "?", "&", "=", "#", "@", ":", "[", "]", ",", "%", "%2F",
            "%00", "h", "localhost", "::1", "5432", "99999", "host", "port", "sslmode", "require", "sslrootcert", "db", "password",
        ]).prop_map(str::to_owned),
        1 => ".{0,3}",
    ];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

/// Pieces that are in no word of ours, so that finding one means that it came out.
const MARKS: [&str; 2] = ["\u{416}q7\u{416}", "Zq7Zx9"];

proptest! {
    #[test]
    fn no_text_panics(given in prop_oneof![".*", like_a_url()]) {
        let _ = said(&given);
        let _ = crate::store::StoreChoice::from_argument(&given);
        let _ = crate::store::without_passwords(&given);
    }

    /// Also where the password's odd characters were not written as `%XX`, so that it ends up anywhere.
    #[test]
    fn no_password_comes_out(
        scheme in prop::sample::select(vec!["redis", "rediss", "postgres"]),
        user in "[a-z]{0,3}",
        mark in prop::sample::select(MARKS.to_vec()),
        before in "[!-~]{0,6}",
        after in "[!-~]{0,6}",
        end in prop::sample::select(vec!["h", "h:1", "[::1]:1", "h/1", "h/d?sslmode=require", "h?x=y", "", "h:x"]),
    ) {
        let password = format!("{before}{mark}{after}");
        let in_query = password.replace(['@', '#'], "");
        for given in [format!("{scheme}://{user}:{password}@{end}"), format!("{scheme}://h/1?password={in_query}")] {
            let heard = said(&given);
            prop_assert!(!heard.contains(mark) && !heard.contains("%D0%96"), "{}", heard);
            let shown = crate::store::without_passwords(&format!("unexpected argument '{given}' found"));
            prop_assert!(!shown.contains(mark) || given.contains("?password") && in_query.contains(['&', '\'', '"']), "{}", shown);
        }
    }

    /// What is shown means the same place.
    #[test]
    fn what_is_shown_is_understood(
        user in "\\PC{1,8}", database in "\\PC{1,8}", host in "[a-z][a-z0-9.-]{0,8}", port in 1_u16..,
    ) {
        let encoded = |part: &str| part.bytes().fold(String::new(), |text, b| format!("{text}%{b:02x}"));
        let given = format!("postgres://{}:x@{host}:{port}/{}", encoded(&user), encoded(&database));
        let url: StoreUrl = given.parse().unwrap();
        let again: StoreUrl = url.to_string().parse().unwrap();
        prop_assert_eq!((again.user(), again.database(), again.hosts()), (Some(&*user), Some(&*database), url.hosts()));
    }
}
