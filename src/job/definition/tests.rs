use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;
use crate::dir::Environment;

/// Two directories of job files, the machine's and the user's.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        for place in ["machine", "user/triplock"] {
            fs::create_dir_all(files.0.path().join(place).join("jobs.d")).unwrap();
        }
        for place in ["machine", "machine/jobs.d", "user/triplock", "user/triplock/jobs.d"] {
            files.mode(place, 0o755);
        }
        files
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.0.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn with(self, path: &str, text: &str) -> Self {
        fs::write(self.0.path().join(path), text).unwrap();
        self.mode(path, 0o644);
        self
    }

    fn environment(&self) -> Environment {
        Environment {
            machine_config: Some(self.0.path().join("machine")),
            xdg_config_home: Some(self.0.path().join("user").into()),
            ..Environment::default()
        }
    }

    fn resolve(&self, job: &str, command: &[&str]) -> Result<Resolved> {
        let sources = Sources::new(None, &self.environment()).unwrap();
        let command = command.iter().map(Into::into).collect();
        sources.resolve(&job.parse().unwrap(), command, Settings::default())
    }

    #[track_caller]
    fn refuses(&self, job: &str, command: &[&str], expected: &str) {
        let error = self.resolve(job, command).expect_err("it is refused").to_string();
        assert_eq!(error.replace(self.0.path().to_str().unwrap(), ""), expected);
    }
}

const MACHINE: &str = "machine/jobs.d/a.toml";
const USER: &str = "user/triplock/jobs.d/a.toml";
const NIGHTLY: &str = "[jobs.nightly]\ncommand = ['backup', '-a']\nretries = 3\n";

#[test]
fn a_job_is_found_in_either_place_and_the_command_line_goes_over_it() {
    for path in [MACHINE, USER] {
        let files = Files::new().with(path, NIGHTLY);
        let resolved = files.resolve("nightly", &[]).unwrap();
        assert_eq!((resolved.command, resolved.options.retries.count), (vec!["backup".into(), "-a".into()], 3));
        let sources = Sources::new(None, &files.environment()).unwrap();
        let line = Settings { retries: Some(1), ..Settings::default() };
        let resolved = sources.resolve(&"nightly".parse().unwrap(), Vec::new(), line).unwrap();
        assert_eq!(resolved.options.retries.count, 1);
    }
}

#[test]
fn a_job_without_a_file_needs_its_command() {
    let files = Files::new().with(MACHINE, NIGHTLY);
    assert_eq!(files.resolve("other", &["true"]).unwrap().command, ["true"]);
    files.refuses("nightyl", &[], "no such job: nightyl; did you mean nightly?");
    files.refuses(
        "x",
        &[],
        "no such job: x; give a command, `triplock run x -- COMMAND`, or define [jobs.x] in \
         /machine/jobs.d/*.toml or /user/triplock/jobs.d/*.toml",
    );
    files.refuses(
        "nightly",
        &["true"],
        "job nightly has its command in /machine/jobs.d/a.toml (line 1); leave the command out, or name the job otherwise",
    );
}

#[test]
fn a_second_definition_is_refused() {
    let files = Files::new().with(MACHINE, NIGHTLY).with(USER, NIGHTLY);
    let twice = "/user/triplock/jobs.d/a.toml: line 1: job nightly is defined in /machine/jobs.d/a.toml (line 1) already; remove one of the two";
    files.refuses("nightly", &[], twice);
    let all = Sources::new(None, &files.environment()).unwrap().all();
    assert_eq!((all.definitions.len(), all.problems.len(), all.files), (1, 1, 2));
}

#[test]
fn a_mistake_stops_its_job_and_no_others() {
    let broken = "[jobs.broken]\ncommand = ['x']\nretrys = 3\n[jobs.beside]\ncommand = ['x']\n";
    let files = Files::new().with(MACHINE, NIGHTLY).with(USER, broken);
    assert!(files.resolve("nightly", &[]).is_ok());
    assert!(files.resolve("other", &["true"]).is_ok());
    assert!(files.resolve("beside", &[]).is_ok());
    for (job, command) in [("broken", &[][..]), ("broken", &["true"])] {
        let expected =
            "/user/triplock/jobs.d/a.toml: line 3: job broken: unknown key \"retrys\"; did you mean retries?";
        files.refuses(job, command, expected);
    }
}

#[test]
fn a_file_that_anybody_may_write_defines_nothing() {
    let files = Files::new().with(MACHINE, NIGHTLY);
    files.mode(MACHINE, 0o666);
    let error = files.resolve("nightly", &[]).unwrap_err();
    assert!(error.to_string().contains("a.toml: is writable by everybody"), "{error}");
    assert!(files.resolve("other", &["true"]).is_ok());
    files.mode(MACHINE, 0o644);
    files.mode("machine/jobs.d", 0o777);
    let error = files.resolve("nightly", &[]).unwrap_err();
    assert!(error.to_string().contains("/machine/jobs.d: is writable by everybody"), "{error}");
}

#[test]
fn a_path_that_was_named_must_be_there_and_is_the_only_one() {
    let files = Files::new().with(MACHINE, NIGHTLY).with(USER, "[jobs.mine]\ncommand = ['x']\n");
    let path = |path: &str| files.0.path().join(path);
    let job = |job: &str| job.parse::<Name>().unwrap();
    for only in [path(MACHINE), path("machine/jobs.d")] {
        let sources = Sources::new(Some(&only), &files.environment()).unwrap();
        assert!(sources.resolve(&job("nightly"), Vec::new(), Settings::default()).is_ok());
        assert!(sources.resolve(&job("mine"), Vec::new(), Settings::default()).is_err());
    }
    let environment = Environment { config: Some(path(USER).into()), ..files.environment() };
    let sources = Sources::new(None, &environment).unwrap();
    assert!(sources.resolve(&job("mine"), Vec::new(), Settings::default()).is_ok());
    let sources = Sources::new(Some(Path::new("/none")), &environment).unwrap();
    let error = sources.resolve(&job("mine"), Vec::new(), Settings::default()).unwrap_err().to_string();
    assert_eq!(error, "/none: there is no such file or directory; correct --config or TRIPLOCK_CONFIG");
    let relative = Environment { config: Some("x".into()), ..Environment::default() };
    assert!(Sources::new(None, &relative).is_err());
}
