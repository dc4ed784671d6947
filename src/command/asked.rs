//! What a command line that `doctor` finds in a crontab or unit asks for.

use super::wrong;
use crate::{
    cli::{self, Cli, Command},
    doctor::{Asked, Subject},
    flock,
    store::without_passwords,
};

/// Understands it as the program itself would.
pub(super) fn asked(words: &[String]) -> Result<Asked, String> {
    let program = words.first().map(|word| word.rsplit('/').next().unwrap_or_default());
    if program == Some("flock") {
        return Ok(of_flock(words.get(1..).unwrap_or_default(), None));
    }
    let Cli { global, command } = match Cli::of(words) {
        Ok(cli) => cli,
        // Help and version.
        Err(error) if !error.use_stderr() => return Ok(Asked::default()),
        Err(error) => return Err(without_passwords(&wrong(&error, &error.render().to_string()))),
    };
    let subject = match command {
        Command::Run(run) => {
            Subject::Run { job: run.job, has_command: !run.command.is_empty(), config: run.options.course.config }
        }
        Command::Queue(cli::Queue::Add(add)) => {
            Subject::Run { job: add.lane, has_command: !add.command.is_empty(), config: add.course.config }
        }
        Command::Stop(stop) => Subject::Job(stop.job),
        Command::Logs(logs) => Subject::Job(logs.job().clone()),
        Command::History(history) => history.job.map_or(Subject::Nothing, Subject::Job),
        Command::Check(cli::Check { job: Some(job), .. }) => Subject::Job(job),
        Command::Update(update) => Subject::Update(update.file),
        Command::Book(book) => Subject::Trip(book.trip),
        Command::Cancel(cancel) => Subject::Trip(cancel.trip),
        Command::Trip(
            cli::Trip::Add { trip, .. }
            | cli::Trip::Show { trip, .. }
            | cli::Trip::Resize { trip, .. }
            | cli::Trip::Remove { trip, .. },
        ) => Subject::Trip(trip),
        Command::Flock(cli::Flock { words }) => {
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            return Ok(of_flock(&words, global.state_dir));
        }
        _ => Subject::Nothing,
    };
    Ok(Asked { state_dir: global.state_dir, store: global.store.into_iter().next(), subject })
}

fn of_flock(words: &[String], dir: Option<std::path::PathBuf>) -> Asked {
    let state = flock::State { dir, ..flock::State::default() };
    match flock::locked_file(words.iter().map(Into::into).collect(), state) {
        Some((path, job, state)) => {
            Asked { state_dir: state.dir, store: None, subject: Subject::LockFile { path: path.into(), job } }
        }
        None => Asked::default(),
    }
}
