//! The same for the crate that speaks with `PostgreSQL`.

use tokio_postgres::{
    Config,
    config::{SslMode, TargetSessionAttrs},
};

use super::{Encryption, StoreUrl, Target};
use crate::error::Result;

impl StoreUrl {
    /// As whom to connect, with which password, and to which database. Who connects adds the hosts, once they are
    /// looked up; TLS, if it is wanted, is [`crate::store::tls::client`]'s.
    ///
    /// # Errors
    /// `Usage`: no user is named, and this one has no name.
    pub(crate) fn postgres(&self) -> Result<Config> {
        let mut config = Config::new();
        let user = self.postgres_user()?;
        config.dbname(self.database.clone().unwrap_or_else(|| user.clone()));
        config.user(user);
        if let Some(password) = &self.password {
            config.password(password.reveal());
        }
        config.ssl_mode(if self.encryption == Encryption::Off { SslMode::Disable } else { SslMode::Require });
        config.target_session_attrs(match self.target {
            Target::Any => TargetSessionAttrs::Any,
            Target::Primary => TargetSessionAttrs::ReadWrite,
        });
        Ok(config)
    }
}
