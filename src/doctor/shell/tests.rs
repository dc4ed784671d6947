use super::*;

fn environment(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The calls as lines: program, arguments, and the state directory of the environment.
fn found(text: &str) -> Vec<String> {
    let shown = |call: Call| {
        let state = call.environment.get("TRIPLOCK_STATE_DIR").map_or(String::new(), |dir| format!("[{dir}] "));
        let user = call.user.map_or(String::new(), |user| format!("<{user}> "));
        let doubt = if call.is_certain { "" } else { " ?" };
        format!("{user}{state}{} {}{doubt}", call.program, call.arguments.join(" "))
    };
    calls(text, &environment(&[("HOME", "/home/a"), ("D", "/d e")])).into_iter().map(shown).collect()
}

#[test]
fn a_program_is_found_where_a_shell_would_start_it() {
    for (text, expected) in [
        ("triplock run a", "triplock run a"),
        ("  /usr/bin/triplock run a # triplock run b", "/usr/bin/triplock run a"),
        ("cd /x && triplock run a -- sh -c 'x; y'", "triplock run a -- sh -c x; y"),
        ("test -x /x || exec triplock run a >/dev/null 2>&1", "triplock run a"),
        ("if true; then triplock run a; fi", "triplock run a"),
        ("(triplock run a &)", "triplock run a"),
        ("nice -n 19 ionice -c3 triplock run a", "triplock run a"),
        ("TRIPLOCK_STATE_DIR=/s nice triplock run a", "[/s] triplock run a"),
        ("env -i TRIPLOCK_STATE_DIR=/s triplock run a", "[/s] triplock run a"),
        ("export TRIPLOCK_STATE_DIR=$D; triplock run a", "[/d e] triplock run a"),
        ("TRIPLOCK_STATE_DIR=/s; export TRIPLOCK_STATE_DIR; triplock run a", "[/s] triplock run a"),
        // Set, and not exported.
        ("TRIPLOCK_STATE_DIR=/s; triplock run a", "triplock run a"),
        ("triplock --state-dir ~/s run a", "triplock --state-dir /home/a/s run a"),
        ("triplock --state-dir \"${HOME}/s t\" run a", "triplock --state-dir /home/a/s t run a"),
        ("triplock --state-dir $UNKNOWN/s run a", "triplock --state-dir /s run a ?"),
        ("triplock run $(hostname; echo (x)) b", "triplock run  b ?"),
        ("bash -lc 'TRIPLOCK_STATE_DIR=/t triplock run a'", "[/t] triplock run a"),
        ("sudo -u bob triplock run a", "<bob> triplock run a"),
        ("sudo -nubob triplock run a", "<bob> triplock run a"),
        ("sudo --user=bob -g x triplock run a", "<bob> triplock run a"),
        ("runuser --user bob -- triplock run a", "<bob> triplock run a"),
        ("su bob -c 'triplock run a'", "<bob> triplock run a"),
        ("su - bob -s /bin/sh -c \"triplock run a\"", "<bob> triplock run a"),
        ("TRIPLOCK_STATE_DIR=/s su -c 'triplock run a' bob", "<bob> [/s] triplock run a"),
        ("TRIPLOCK_STATE_DIR=/s su -l bob -c 'triplock run a'", "<bob> triplock run a"),
        ("nice su bob -c 'TRIPLOCK_STATE_DIR=/t triplock run a'", "<bob> [/t] triplock run a"),
        ("su -c 'triplock run a'", "<root> triplock run a"),
        ("su $WHO -c 'triplock run a'", ""),
        ("runuser -l bob -c 'triplock run a'", "<bob> triplock run a"),
        ("sudo -n -g users triplock run a", "<root> triplock run a"),
        ("flock -n /tmp/x triplock run a", "flock -n /tmp/x triplock run a|triplock run a"),
        ("flock /tmp/x -c 'triplock run a'", "flock /tmp/x -c triplock run a|triplock run a"),
        ("echo triplock run a", ""),
        ("grep triplock /x | mail", ""),
        ("'unclosed triplock run a", ""),
        ("triplock-old run a", ""),
        ("triplock run a\r\x0c \r", "triplock run a\r\x0c \r"),
        ("", ""),
    ] {
        assert_eq!(found(text).join("|"), expected, "{text}");
    }
}

#[test]
fn an_endless_nesting_ends() {
    let mut text = "triplock run a".to_owned();
    for _ in 0..12 {
        text = format!("sh -c \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    }
    assert!(found(&text).is_empty());
    assert_eq!(found(&("flock /x ".repeat(20_000) + "triplock run a")).len(), 16);
    let _ = found(&"(".repeat(100_000));
    let _ = found(&"`\"'${$(".repeat(10_000));
}
