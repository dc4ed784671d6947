//! TLS, by rustls: what a server must prove, and what it means when it does not.
//!
//! The cryptography is ring's, named here each time: rustls would otherwise look for a default of the whole process, and
//! panic where there is none.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::{
    StoreUrl,
    url::{Encryption, Host},
};
use crate::error::{Error, Result, ServerTrouble};

/// How to speak TLS with that server; `None` when the URL wants none.
///
/// # Errors
/// `Server`, misconfigured: no authority is known that could vouch for it.
pub(crate) fn client(url: &StoreUrl) -> Result<Option<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let wrong = |why: String| Error::Server { server: url.to_string(), trouble: ServerTrouble::Misconfigured, why };
    let verifier: Arc<dyn ServerCertVerifier> = match url.encryption() {
        Encryption::Off => return Ok(None),
        Encryption::Unverified => Arc::new(Anybody { provider: Arc::clone(&provider) }),
        encryption => {
            let roots = roots(url.root_certificates()).map_err(&wrong)?;
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
            let verifier = verifier.map_err(|e| wrong(format!("TLS: {e}")))?;
            if encryption == Encryption::Full { verifier } else { Arc::new(AnyName { verifier }) }
        }
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| wrong(format!("TLS: {e}")))?;
    Ok(Some(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// The same, and the name that the server's certificate must be for.
///
/// # Errors
/// As [`client`]; or the host has no name that a certificate could have.
pub(crate) fn for_host(url: &StoreUrl, host: &Host) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>> {
    let (Some(client), Host::Tcp(name, _)) = (client(url)?, host) else { return Ok(None) };
    // An address's zone is this machine's own affair.
    let name = name.split('%').next().unwrap_or_default();
    let name = ServerName::try_from(name.to_owned()).map_err(|_| Error::Server {
        server: url.to_string(),
        trouble: ServerTrouble::Misconfigured,
        why: "TLS needs a host's name or address".to_owned(),
    })?;
    Ok(Some((Arc::new(client), name)))
}

/// Why TLS failed and what to do, if it is TLS that did.
pub(crate) fn trouble(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(explain(error));
        }
        // An io::Error's source is that of the error it wraps, so that one is asked by itself.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn explain(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            Bad::UnknownIssuer => "its certificate comes from an authority that is not trusted here; name the \
                authority's certificates with sslrootcert=FILE in the store's URL"
                .to_owned(),
            Bad::Expired | Bad::ExpiredContext { .. } => {
                "its certificate has expired; renew it, or set this machine's clock".to_owned()
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "its certificate is not valid yet; set this machine's clock".to_owned()
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "its certificate is for another name; give the store's URL that name, or the server a certificate for \
                 this one"
                    .to_owned()
            }
            other => format!("its certificate is not accepted: {other}"),
        },
        rustls::Error::InvalidMessage(_) => "what listens there does not speak TLS; see the store's URL".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("it refused TLS with us: {alert:?}; see its log"),
        other => format!("TLS: {other}"),
    }
}

/// The authorities that are trusted: those of the file, or this machine's.
fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = file {
        let shown = path.display();
        let list = CertificateDer::pem_file_iter(path).map_err(|e| format!("sslrootcert: {shown}: {}", reason(&e)))?;
        for certificate in list {
            let certificate = certificate.map_err(|e| format!("sslrootcert: {shown}: {}", reason(&e)))?;
            roots.add(certificate).map_err(|e| format!("sslrootcert: {shown}: {e}"))?;
        }
        if roots.is_empty() {
            return Err(format!("sslrootcert: {shown}: no certificate in PEM is in it"));
        }
        return Ok(roots);
    }
    // One that cannot be read or understood must not keep the others from being used.
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |e| format!(" ({e})"));
        return Err(format!(
            "this machine has no list of certificate authorities{why}; install ca-certificates, or name the server's \
             authority with sslrootcert=FILE in the store's URL"
        ));
    }
    Ok(roots)
}

fn reason(error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(e) => e.to_string(),
        _ => "is not PEM".to_owned(),
    }
}

/// `verify-ca`: whoever the authority vouches for.
#[derive(Debug)]
struct AnyName {
    verifier: Arc<WebPkiServerVerifier>,
}

/// `require`: anybody who has the certificate's key.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The name is what is looked at last.
        match self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
