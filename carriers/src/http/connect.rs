//! Opens a connection: resolves once, connects to that address, does TLS. Nothing of a request leaves here, so
//! every failure is a proof.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use billing_core::outcome::NotSentProof;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::target::Target;
use super::tee::Stream;
use super::{SetupError, TargetError};
use crate::adapter::Alert;

/// Addresses of one name that are tried, one after the other, inside of one deadline.
const ADDRESSES_MAX: usize = 4;

/// Opens connections to one target.
pub(super) struct Dialer {
    pub(super) target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

/// No connection, and what that proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DialError {
    pub(super) proof: NotSentProof,
    pub(super) alert: Option<Alert>,
}

impl DialError {
    fn of(proof: NotSentProof) -> Self {
        Self { proof, alert: None }
    }
}

impl Dialer {
    pub(super) fn new(target: Target, timeout: Duration, ca_file: Option<&Path>) -> Result<Self, SetupError> {
        let tls = if target.tls {
            let form = || TargetError::Form(target.host.to_string());
            let name = ServerName::try_from(target.host.to_string()).map_err(|_| form())?;
            Some((TlsConnector::from(Arc::new(tls_config(ca_file)?)), name))
        } else {
            None
        };
        Ok(Self { target, tls, timeout })
    }

    /// A fresh connection. Resolving, connecting and TLS share one deadline; the step that it hits is the proof.
    pub(super) async fn dial(&self) -> Result<Stream, DialError> {
        let step = AtomicU8::new(0);
        match tokio::time::timeout(self.timeout, self.steps(&step)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::of(match step.load(Ordering::Relaxed) {
                0 => NotSentProof::NameResolution,
                1 => NotSentProof::Connect,
                _ => NotSentProof::TlsHandshake,
            })),
        }
    }

    async fn steps(&self, step: &AtomicU8) -> Result<Stream, DialError> {
        let addresses = self.resolve().await?;
        step.store(1, Ordering::Relaxed);
        let stream = connect(&addresses).await.ok_or(DialError::of(NotSentProof::Connect))?;
        // Without it the second half of a request would wait for an acknowledgement.
        stream.set_nodelay(true).map_err(|_| DialError::of(NotSentProof::Connect))?;
        let Some((connector, name)) = &self.tls else { return Ok(Stream::Plain(stream)) };
        step.store(2, Ordering::Relaxed);
        match connector.connect(name.clone(), stream).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(_) => Err(DialError::of(NotSentProof::TlsHandshake)),
        }
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        let found: Vec<SocketAddr> = match self.target.host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, self.target.port)],
            Err(_) => tokio::net::lookup_host((&*self.target.host, self.target.port))
                .await
                .map_err(|_| DialError::of(NotSentProof::NameResolution))?
                .collect(),
        };
        let allowed: Vec<SocketAddr> = found
            .iter()
            .copied()
            .filter(|address| self.target.allows(address.ip()))
            .take(ADDRESSES_MAX)
            .collect();
        if allowed.is_empty() {
            let alert = (!found.is_empty()).then_some(Alert::ForbiddenAddress);
            return Err(DialError { proof: NotSentProof::NameResolution, alert });
        }
        Ok(allowed)
    }
}

async fn connect(addresses: &[SocketAddr]) -> Option<TcpStream> {
    for address in addresses {
        if let Ok(stream) = TcpStream::connect(address).await {
            return Some(stream);
        }
    }
    None
}

fn tls_config(ca_file: Option<&Path>) -> Result<rustls::ClientConfig, SetupError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = ca_file {
        let unreadable = |why: String| SetupError::CaFile { path: PathBuf::from(path), why };
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
        let mut added = 0;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
            added += 1;
        }
        if added == 0 {
            return Err(unreadable("no certificate inside".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
