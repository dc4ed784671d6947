//! Whether a user can get at a file, and who else could change it: what a scheduler would find out at night.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use super::{Account, systemd::GROUP};

const READ: u32 = 4;
const WRITE: u32 = 2;
const EXECUTE: u32 = 1;

/// What the user wants of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Execute,
    Read,
    /// Make files in a directory.
    Fill,
}

/// What stands in the way, and who could change what the user relies on; a line each.
pub(crate) fn warnings(what: &str, path: &Path, wish: Wish, account: &Account) -> Vec<String> {
    let mut warnings = Vec::new();
    // Of what is below somebody's directory the first says enough.
    let mut is_strangers = false;
    let user = &account.name;
    let shown = path.display();
    let stages = path.ancestors().collect::<Vec<_>>().into_iter().rev();
    for stage in stages {
        let Ok(found) = fs::metadata(stage) else { break };
        let place = stage.display();
        let is_last = stage == path;
        let needed = match wish {
            _ if !is_last => EXECUTE,
            Wish::Execute => EXECUTE,
            Wish::Read => READ,
            Wish::Fill => WRITE | EXECUTE,
        };
        if !may(account, &found, needed) {
            let refused = match wish {
                _ if !is_last => {
                    format!("user {user} may not pass {place}; put it where every user may, or `chmod o+x {place}`")
                }
                Wish::Execute => format!("user {user} may not execute it; `chmod a+rx {place}`"),
                Wish::Read => format!("user {user} may not read it; `chmod a+r {place}`"),
                Wish::Fill => format!("user {user} may not write there; {}", shared(path, &found, user)),
            };
            warnings.push(format!("{what} {shown}: {refused}"));
            break;
        }
        let owner = found.uid();
        if !is_strangers && wish != Wish::Fill && owner != 0 && owner != account.uid {
            is_strangers = true;
            let at = if is_last { "it".to_owned() } else { place.to_string() };
            let owner = Account::of(&owner.to_string()).map_or_else(|| owner.to_string(), |account| account.name);
            warnings.push(format!("{what} {shown}: {at} is user {owner}'s, who could have anything run by {user}"));
        }
        // In a directory with the sticky bit nobody can replace what is another's.
        let is_sticky = found.is_dir() && found.mode() & 0o1000 != 0;
        if found.mode() & 0o002 != 0 && !is_sticky {
            let at = if is_last { "it".to_owned() } else { place.to_string() };
            warnings.push(format!("{what} {shown}: anybody may write to {at} and so have anything run by {user}"));
        }
    }
    warnings
}

/// How the user comes to write in the state directory. Of root's own group nobody is to be a member.
fn shared(state: &Path, found: &Metadata, user: &str) -> String {
    let place = state.display();
    let is_shared = found.mode() & 0o070 == 0o070 && found.gid() != 0;
    if is_shared {
        return format!("add the user to its group: `usermod -aG \"$(stat -c %G {place})\" {user}`");
    }
    format!(
        "share it with a group that the user is in: `groupadd -f --system {GROUP} && usermod -aG {GROUP} {user} && chgrp -R \
         {GROUP} {place} && chmod -R g+rwX {place} && chmod 2770 {place}`"
    )
}

fn may(account: &Account, found: &Metadata, needed: u32) -> bool {
    if account.uid == 0 {
        // Root may do all but execute what nobody may.
        return needed & EXECUTE == 0 || found.is_dir() || found.mode() & 0o111 != 0;
    }
    let shift = match found {
        found if found.uid() == account.uid => 6,
        found if account.groups.contains(&found.gid()) => 3,
        _ => 0,
    };
    found.mode() >> shift & needed == needed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_said_who_cannot_come_in_and_who_could_change_it() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let file = dir.path().join("program");
        fs::write(&file, "").unwrap();
        let nobody = Account { name: "bob".into(), uid: 4_000_000, groups: vec![4_000_000], home: "/".into() };
        let look = |wish| {
            let mut found = warnings("the program", &file, wish, &nobody);
            // (Whoever runs this test is a stranger to him, unless it is root.)
            found.retain(|line| !line.contains("'s, who could"));
            found.join("|")
        };
        mode(dir.path(), 0o700);
        assert!(look(Wish::Execute).contains(&format!("user bob may not pass {}; ", dir.path().display())));
        mode(dir.path(), 0o755);
        mode(&file, 0o754);
        assert!(look(Wish::Execute).contains("user bob may not execute it; `chmod a+rx /"));
        assert_eq!(look(Wish::Read), "");
        mode(&file, 0o757);
        assert!(look(Wish::Execute).contains("anybody may write to it"));
        mode(&file, 0o755);
        mode(dir.path(), 0o777);
        assert!(look(Wish::Execute).contains(&format!("anybody may write to {} ", dir.path().display())));
        mode(dir.path(), 0o1777);
        assert_eq!(look(Wish::Execute), "");
    }
}
