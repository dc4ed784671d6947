//! Which store a command uses: what was said on the command line, in the environment and in config.toml, and the password
//! that goes with it.

use std::{
    fmt,
    path::PathBuf,
    sync::{LazyLock, Mutex, OnceLock, PoisonError},
};

use crate::{
    cli,
    config::{Configuration, Places, Problem, Told},
    dir::{Environment, StateDir},
    error::{Error, Result},
    output::Output,
    store::{Source, StoreChoice, StoreUrl, find_credentials},
};

static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(Environment::current);

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// What config.toml says; read once, whoever asks.
fn configuration() -> Result<&'static Configuration> {
    static CONFIGURATION: OnceLock<Result<Configuration>> = OnceLock::new();
    let configuration = CONFIGURATION.get_or_init(|| Ok(Configuration::new(Places::of(&ENVIRONMENT)?, user())));
    configuration.as_ref().map_err(Clone::clone)
}

/// The state directory that the command line, the environment and the configuration name.
pub(super) fn state_path(global: &cli::Global) -> Result<PathBuf> {
    match &global.state_dir {
        Some(path) => Ok(path.clone()),
        None => StateDir::default_path_in(&ENVIRONMENT, configuration()?, user()),
    }
}

/// Who named a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    CommandLine,
    Environment,
    /// A file and its line.
    File(Told<StoreChoice>),
    Nobody,
}

impl Named {
    /// So that everybody on the host means the same store.
    pub(super) fn is_by_file(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("--store"),
            Self::Environment => f.write_str("$TRIPLOCK_STORE"),
            Self::File(told) => told.fmt(f),
            Self::Nobody => f.write_str("the default"),
        }
    }
}

/// A server that was chosen, with its password.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: StoreUrl,
    pub(crate) password: Option<Source>,
    /// A file with passwords that was passed over, and what to do.
    pub(crate) passed_over: Option<String>,
}

/// What the command line says, or else the environment, or else the configuration.
pub(super) fn choice(global: &cli::Global) -> Result<(StoreChoice, Named)> {
    match global.store.as_slice() {
        [] => default_choice(),
        [choice] => Ok((choice.clone(), Named::CommandLine)),
        _ => Err(Error::Usage("--store is given more than once; only race takes several".to_owned())),
    }
}

fn default_choice() -> Result<(StoreChoice, Named)> {
    if let Some(given) = &ENVIRONMENT.store {
        let given = given.to_str().ok_or_else(|| Error::Usage("$TRIPLOCK_STORE is not UTF-8".to_owned()))?;
        let choice = given.parse().map_err(|why| Error::Usage(format!("$TRIPLOCK_STORE: {why}")))?;
        return Ok((choice, Named::Environment));
    }
    let told = configuration()?.store().map_err(Problem::into_error)?;
    Ok(told.map_or((StoreChoice::Files, Named::Nobody), |told| (told.value.clone(), Named::File(told.clone()))))
}

/// The server with the password that goes with it.
pub(super) fn with_credentials(url: StoreUrl, named: &Named) -> Result<Server> {
    let configured = match named {
        Named::File(told) => configuration()?.store_password_file_beside(told),
        // (A password at hand, the files need not be read.)
        _ if url.has_password()
            || ENVIRONMENT.store_password.is_some()
            || ENVIRONMENT.store_password_file.is_some() =>
        {
            None
        }
        _ => configuration()?.store_password_file(&url).map_err(Problem::into_error)?,
    };
    let found = find_credentials(&url, &ENVIRONMENT, configured, user())?;
    let passed_over = found.passed_over;
    Ok(match found.password {
        Some((secret, source)) => Server { url: url.with_password(secret), password: Some(source), passed_over },
        None => Server { url, password: None, passed_over },
    })
}

/// The server that is the store; `None`: the state directory is.
pub(super) fn server(global: &cli::Global) -> Result<Option<StoreUrl>> {
    let (choice, named) = choice(global)?;
    let Some(url) = choice.into_url() else { return Ok(None) };
    let server = with_credentials(url, &named)?;
    warn(global, &server);
    Ok(Some(server.url))
}

/// Where trips are, for people: the server, or the state directory.
pub(super) fn place(global: &cli::Global) -> Result<String> {
    Ok(match choice(global)?.0.into_url() {
        Some(url) => url.to_string(),
        None => state_path(global)?.display().to_string(),
    })
}

/// The server that another process of ours named, and said what there is to say of.
pub(super) fn inherited(global: &cli::Global) -> Result<Option<StoreUrl>> {
    let (choice, named) = choice(global)?;
    choice.into_url().map(|url| with_credentials(url, &named).map(|server| server.url)).transpose()
}

/// The servers that are named: one of each kind at most.
pub(super) fn servers(global: &cli::Global) -> Result<Vec<StoreUrl>> {
    let choices = match global.store.as_slice() {
        [] => vec![default_choice()?],
        choices => choices.iter().map(|choice| (choice.clone(), Named::CommandLine)).collect(),
    };
    let mut servers: Vec<StoreUrl> = Vec::new();
    for (choice, named) in choices {
        let Some(url) = choice.into_url() else { continue };
        if servers.iter().any(|other| other.kind() == url.kind()) {
            let kind = url.kind().word();
            return Err(Error::Usage(format!("--store names two {kind} servers: give one of each kind")));
        }
        let server = with_credentials(url, &named)?;
        warn(global, &server);
        servers.push(server.url);
    }
    Ok(servers)
}

/// Says what there is to say of a server, once in a process, however often it is asked for.
fn warn(global: &cli::Global, server: &Server) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    for warning in server.passed_over.clone().into_iter().chain(server.url.warning()) {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        if !said.contains(&warning) {
            Output::new(global).warning(&warning);
            said.push(warning);
        }
    }
}
