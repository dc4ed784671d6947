//! `run` and `stop`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    Args, ValueHint,
    builder::{PossibleValuesParser, TypedValueParser},
};

use crate::{
    crontab::Tick,
    duration::parse as duration,
    job::{
        Hold, OutputMode,
        settings::{self, PolicyWord, Settings, Words},
        signal,
    },
    name::Name,
};

#[derive(Debug, Args)]
#[command(
    override_usage = "triplock run <JOB> [OPTIONS] [--] <COMMAND> [ARGS]...\n       triplock run <JOB> [OPTIONS]"
)]
#[command(
    after_help = "The first word after JOB that is no option begins the command; from there on all words are its own. \
A job that a job file defines is run without one.\n\
Exit code: the command's own, 128+N if signal N ended it; 124 time limit (137 if it took KILL), 75 busy, \
125 triplock failed and nothing was run, 126 not executable, 127 not found."
)]
pub(crate) struct Run {
    /// The job: at most one of that name runs at a time.
    pub(crate) job: Name,
    #[command(flatten)]
    pub(crate) options: RunOptions,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

impl Run {
    /// What the command line says about how the job is run.
    pub(crate) fn settings(&self) -> Settings {
        self.options.settings()
    }
}

// Each as its key in a job file; `RunOptions::settings` is where they meet.
#[derive(Debug, Default, Args)]
pub(crate) struct RunOptions {
    /// What to do while the job runs already: skip this run, wait, or end the other and replace it [default: skip].
    #[arg(long, value_parser = words::<PolicyWord>(), help_heading = "While the job runs already")]
    pub(crate) policy: Option<PolicyWord>,
    /// Do not wait (the default): the same as --policy skip.
    #[arg(short = 'n', long, conflicts_with_all = ["policy", "wait"], help_heading = "While the job runs already")]
    pub(crate) nonblock: bool,
    /// Wait at most this long: seconds, or 90s 5m 1h 1d.
    #[arg(short = 'w', long, value_name = "DURATION", value_parser = duration, allow_negative_numbers = true)]
    #[arg(help_heading = "While the job runs already")]
    pub(crate) wait: Option<Duration>,
    /// Exit so when the job was not run because it runs already [default: 75].
    #[arg(short = 'E', long, value_name = "N", value_parser = settings::exit_code, allow_negative_numbers = true)]
    #[arg(help_heading = "While the job runs already")]
    pub(crate) conflict_exit_code: Option<u8>,
    /// Exit so when the run was stopped or replaced, or a signal ended its wait [default: as the command].
    #[arg(long, value_name = "N", value_parser = settings::exit_code, allow_negative_numbers = true)]
    #[arg(help_heading = "Limits")]
    pub(crate) stop_exit_code: Option<u8>,
    /// Run once for each time that these five fields of a crontab name, whichever host comes first; the others record who
    /// ran it, and exit 0. Wants a store on a server (see --store).
    #[arg(long, value_name = "CRON", value_parser = settings::tick, help_heading = "When")]
    pub(crate) tick: Option<Tick>,
    /// Wait a random time up to this long first.
    #[arg(long, value_name = "DURATION", value_parser = duration, allow_negative_numbers = true)]
    #[arg(help_heading = "When")]
    pub(crate) jitter: Option<Duration>,
    /// How long the job's lease on a server lasts unless it is renewed, 1 s to 1 d: so long nobody starts it elsewhere when
    /// this host is gone, and the job is ended before it is over when the server is [default: 30].
    #[arg(long, value_name = "DURATION", value_parser = settings::lease, allow_negative_numbers = true)]
    #[arg(help_heading = "Lock and output")]
    pub(crate) lease: Option<Duration>,
    /// Where the output goes: where triplock's does, to a log, or to a log that is printed if the run fails
    /// [default: inherit].
    #[arg(long, value_parser = words::<OutputMode>(), help_heading = "Lock and output")]
    pub(crate) output: Option<OutputMode>,
    #[command(flatten)]
    pub(crate) course: CourseOptions,
}

// What a queued run takes as well.
#[derive(Debug, Default, Args)]
pub(crate) struct CourseOptions {
    /// How many may run at once, 1 to 64 [default: 1].
    #[arg(long, value_name = "N", value_parser = settings::slots, allow_negative_numbers = true)]
    #[arg(help_heading = "While the job runs already")]
    pub(crate) slots: Option<u32>,
    /// Hold this lock as well; may be given again. Taken in one order whatever the order here.
    #[arg(long = "lock", value_name = "NAME", help_heading = "While the job runs already")]
    pub(crate) locks: Vec<Name>,
    /// End an attempt that takes longer.
    #[arg(long, value_name = "DURATION", value_parser = settings::time, allow_negative_numbers = true)]
    #[arg(help_heading = "Limits")]
    pub(crate) time_limit: Option<Duration>,
    /// How long the job has from the first signal until it is killed with all it started; 0 never kills [default: 10,
    /// with a store on a server a quarter of the lease].
    #[arg(short = 'k', long, value_name = "DURATION", value_parser = duration, allow_negative_numbers = true)]
    #[arg(help_heading = "Limits")]
    pub(crate) kill_after: Option<Duration>,
    /// The first signal, by name or number [default: TERM].
    #[arg(long, value_name = "SIGNAL", value_parser = signal::parse, allow_negative_numbers = true)]
    #[arg(help_heading = "Limits")]
    pub(crate) signal: Option<i32>,
    /// Try again up to N times when it fails [default: 0].
    #[arg(long, value_name = "N", value_parser = settings::count, allow_negative_numbers = true)]
    #[arg(help_heading = "Success and failure")]
    pub(crate) retries: Option<u32>,
    /// The pause before the first retry [default: 1].
    #[arg(long, value_name = "DURATION", value_parser = duration, allow_negative_numbers = true)]
    #[arg(help_heading = "Success and failure")]
    pub(crate) retry_delay: Option<Duration>,
    /// What each further pause is multiplied by [default: 2].
    #[arg(long, value_name = "FACTOR", value_parser = settings::backoff, allow_negative_numbers = true)]
    #[arg(help_heading = "Success and failure")]
    pub(crate) retry_backoff: Option<f64>,
    /// No pause is longer [default: 5m, or the retry delay if that is longer].
    #[arg(long, value_name = "DURATION", value_parser = duration, allow_negative_numbers = true)]
    #[arg(help_heading = "Success and failure")]
    pub(crate) retry_max_delay: Option<Duration>,
    /// The exit codes that count as success, with commas between them [default: 0].
    #[arg(long, value_name = "CODES", value_parser = exit_codes, allow_negative_numbers = true)]
    #[arg(help_heading = "Success and failure")]
    pub(crate) ok_exit: Option<ExitCodes>,
    /// Run at most once in this time: not due, and exit 0, until it has passed since the last success started.
    #[arg(long, value_name = "DURATION", value_parser = settings::time, allow_negative_numbers = true)]
    #[arg(help_heading = "When")]
    pub(crate) once_per: Option<Duration>,
    /// What keeps the lock: the command alone, or all it started and left running [default: command].
    #[arg(long, value_parser = words::<Hold>(), help_heading = "Lock and output")]
    pub(crate) hold: Option<Hold>,
    /// Give the command no lock descriptor: if triplock is killed, the lock is free though the command runs on.
    #[arg(short = 'o', long, help_heading = "Lock and output")]
    pub(crate) close: bool,
    /// How many logs are kept [default: 20, of queued runs 1000].
    #[arg(long, value_name = "N", value_parser = settings::count, allow_negative_numbers = true)]
    #[arg(help_heading = "Lock and output")]
    pub(crate) keep_runs: Option<u32>,
    /// How much output a log keeps: bytes, or 64k 10M 1G [default: 10M].
    #[arg(long, value_name = "BYTES", value_parser = settings::bytes, allow_negative_numbers = true)]
    #[arg(help_heading = "Lock and output")]
    pub(crate) log_limit: Option<u64>,
    /// Read job files from this file or directory only [default: `$TRIPLOCK_CONFIG`, else /etc/triplock/jobs.d and
    /// `$XDG_CONFIG_HOME/triplock/jobs.d` (~/.config/triplock/jobs.d)].
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Lock and output")]
    pub(crate) config: Option<PathBuf>,
}

impl RunOptions {
    fn settings(&self) -> Settings {
        Settings {
            policy: if self.nonblock { Some(PolicyWord::Skip) } else { self.policy },
            wait: self.wait,
            conflict_exit_code: self.conflict_exit_code,
            stop_exit_code: self.stop_exit_code,
            jitter: self.jitter,
            lease: self.lease,
            tick: self.tick.clone(),
            output: self.output,
            ..self.course.settings()
        }
    }
}

impl CourseOptions {
    pub(super) fn settings(&self) -> Settings {
        Settings {
            time_limit: self.time_limit,
            kill_after: self.kill_after,
            signal: self.signal,
            retries: self.retries,
            retry_delay: self.retry_delay,
            retry_backoff: self.retry_backoff,
            retry_max_delay: self.retry_max_delay,
            ok_exit: self.ok_exit.as_ref().map(|codes| codes.0.clone()),
            once_per: self.once_per,
            slots: self.slots,
            locks: (!self.locks.is_empty()).then(|| self.locks.clone()),
            close: self.close.then_some(true),
            hold: self.hold,
            keep_runs: self.keep_runs,
            log_limit: self.log_limit,
            ..Settings::default()
        }
    }
}

/// One value with several codes in it (clap would take a list for an option that may be repeated).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExitCodes(pub(crate) Vec<u8>);

pub(super) fn exit_codes(given: &str) -> Result<ExitCodes, String> {
    settings::exit_codes(given).map(ExitCodes)
}

/// The domain's words, so that help and errors list them.
fn words<T: Words>() -> impl TypedValueParser<Value = T> {
    let known = PossibleValuesParser::new(T::WORDS.iter().map(|(word, _)| *word));
    known.try_map(|word| T::from_word(&word).ok_or("unknown word"))
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The job that is to end.
    pub(crate) job: Name,
    /// How long it has from TERM until it is killed with all it started; 0 never kills.
    #[arg(short = 'k', long, value_name = "DURATION", default_value = "10", value_parser = duration)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) kill_after: Duration,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        job::{Options, Policy},
        lock::Wait,
    };

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn parse(line: &str) -> Result<Run, clap::Error> {
        Line::try_parse_from(std::iter::once("run").chain(line.split(' '))).map(|line| line.run)
    }

    fn options(line: &str) -> Options {
        parse(line).unwrap().settings().lower().unwrap()
    }

    #[test]
    fn the_first_word_that_is_no_option_begins_the_command() {
        for line in ["J -n -- c -v -- x", "J -n c -v -- x", "-n J c -v -- x", "-n J -- c -v -- x"] {
            let run = parse(line).unwrap();
            assert_eq!((run.job.as_str(), run.options.nonblock), ("J", true), "{line}");
            assert_eq!(run.command, ["c", "-v", "--", "x"], "{line}");
        }
        assert_eq!(parse("J -- -v --json").unwrap().command, ["-v", "--json"]);
        assert!(parse("J").unwrap().command.is_empty());
        assert!(parse("J --unknown c").is_err());
    }

    #[test]
    fn every_option_reaches_the_options() {
        let line = "J -w 0.3 -E 0 --stop-exit-code 9 --slots 3 --lock db --lock A --lock db --time-limit 90s -k 0 --signal sigint --retries 5 \
                    --retry-delay 2 --retry-backoff 1.5 --retry-max-delay 1m --ok-exit 3,0 --once-per 1d --jitter 5m \
                    --hold tree --lease 2 --tick @hourly --output on-failure --keep-runs 7 --log-limit 64k --config /x c";
        let seconds = Duration::from_secs;
        let expected = Options {
            policy: Policy::Wait(Wait::For(Duration::from_millis(300))),
            conflict_exit_code: 0,
            stop_exit_code: Some(9),
            time_limit: Some(seconds(90)),
            kill_after: Some(Duration::ZERO),
            signal: libc::SIGINT,
            retries: crate::job::Retries { count: 5, delay: seconds(2), backoff: 1.5, max_delay: seconds(60) },
            ok_exit: vec![0, 3],
            once_per: Some(seconds(86400)),
            jitter: seconds(300),
            slots: 3,
            locks: vec!["A".parse().unwrap(), "db".parse().unwrap()],
            close: false,
            hold: Hold::Tree,
            lease: Some(seconds(2)),
            tick: Some("@hourly".parse().unwrap()),
            output: OutputMode::OnFailure,
            keep_runs: 7,
            log_limit: 65536,
        };
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(options(&line), expected);
        assert_eq!(parse(&line).unwrap().options.course.config, Some("/x".into()));
        assert_eq!(options("J c"), Options::default());
        assert_eq!(
            options("J --policy replace -o c"),
            Options { policy: Policy::Replace, close: true, ..Options::default() }
        );
    }

    #[test]
    fn bad_values_and_contradictions_are_refused() {
        for line in [
            "J -w -1 c",
            "J -w 1w c",
            "J -E 256 c",
            "J -E -1 c",
            "J --stop-exit-code 256 c",
            "J --slots 0 c",
            "J --slots 65 c",
            "J --lock a/b c",
            "J --time-limit 0 c",
            "J --time-limit -5 c",
            "J --time-limit 36526d c",
            "J -k -1 c",
            "J --signal NONE c",
            "J --signal 0 c",
            "J --retries -1 c",
            "J --retry-backoff 0.9 c",
            "J --retry-backoff inf c",
            "J --ok-exit 0;3 c",
            "J --once-per 0 c",
            "J --jitter x c",
            "J --hold all c",
            "J --lease 0.9 c",
            "J --lease 2d c",
            "J --tick * c",
            "J --tick @reboot c",
            "J --output both c",
            "J --log-limit 0 c",
            "../J c",
            "J -n -w 3 c",
            "J -n --policy wait c",
            "J --policy often c",
            "J --close --close c",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in [
            "J --policy skip -w 1 c",
            "J --policy replace -w 1 c",
            "J -o --hold tree c",
            "J --retry-delay 2 --retry-max-delay 1 c",
        ] {
            assert!(parse(line).unwrap().settings().lower().is_err(), "{line}");
        }
    }
}
