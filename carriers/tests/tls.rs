//! TLS: who is trusted, and that a failed handshake proves that nothing left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use billing_core::outcome::{NotSentProof, Outcome};
use carriers::{Attempt, BoxFuture, CarrierDefinition, SendGuard};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use script::{ALFA, Do, Rig, Seen, Server, answer, attempt, charged, definition, until};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A carrier behind TLS, with a certificate for `localhost`; gives its port.
async fn carrier() -> u16 {
    slow_carrier(Arc::default(), Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)), false).await
}

/// One that counts who comes, and shakes a hand per permit only; `once`: each connection is for one request.
async fn slow_carrier(came: Arc<AtomicUsize>, hands: Arc<Semaphore>, once: bool) -> u16 {
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(fixture("server.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(fixture("server-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            came.fetch_add(1, Ordering::SeqCst);
            let (acceptor, hands) = (acceptor.clone(), Arc::clone(&hands));
            tokio::spawn(async move {
                hands.acquire().await.unwrap().forget();
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                while let Some(bytes) = script::read_request(&mut stream).await {
                    let start = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
                    let body = serde_json::from_slice(&bytes[start..]).unwrap();
                    let request = Seen { connection: 0, bytes, body };
                    stream.write_all(&answer(201, &charged(&request))).await.unwrap();
                    stream.flush().await.unwrap();
                    if once {
                        break;
                    }
                }
            });
        }
    });
    port
}

fn alfa(with_ca: bool) -> CarrierDefinition {
    let ca = if with_ca { format!("\nca_file = {:?}", fixture("ca.pem")) } else { String::new() };
    definition("alfa", &ALFA.replace("kind = \"http\"", &format!("kind = \"http\"{ca}")))
}

#[tokio::test]
async fn a_carrier_with_a_trusted_certificate_is_spoken_to() {
    let base = format!("https://localhost:{}", carrier().await);
    let rig = Rig::new(&alfa(true), &base);
    for n in 1..=2 {
        let reply = rig.charge(n).await;
        assert_eq!(reply.outcome, Outcome::Charged { amount_minor: 199 });
        // What is kept is what was said, not what was enciphered.
        assert!(reply.request.starts_with(b"POST /payments HTTP/1.1\r\nhost: localhost:"));
    }
}

/// Lets everything be sent; permits come from outside.
struct Permits {
    asked: AtomicUsize,
    given: Semaphore,
}

impl SendGuard for Permits {
    fn may_send(&self, _: &Attempt) -> bool {
        true
    }

    fn permit_again(&self) -> BoxFuture<'_, ()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { self.given.acquire().await.unwrap().forget() })
    }
}

#[tokio::test]
async fn what_had_to_wait_for_a_connection_asks_for_another_permit() {
    let (came, hands) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
    let base = format!("https://localhost:{}", slow_carrier(came.clone(), hands.clone(), true).await);
    let permits = Arc::new(Permits { asked: AtomicUsize::new(0), given: Semaphore::new(0) });
    let mut alfa = alfa(true);
    (alfa.caps.connect_timeout_ms, alfa.caps.reply_timeout_ms) = (60_000, 60_000);
    let rig = Rig::with(&alfa, &base, permits.clone());
    // Nobody knows yet what is slow: the first may ask, too.
    permits.given.add_permits(1);
    hands.add_permits(1);
    let since = Instant::now();
    assert_eq!(rig.charge(5).await.outcome, Outcome::Charged { amount_minor: 199 });
    let slow = since.elapsed() * 5 + Duration::from_millis(25);
    permits.given.forget_permits(1);
    let first = permits.asked.load(Ordering::SeqCst);
    for n in 1..=4 {
        rig.queue.send(attempt(n)).await.unwrap();
    }
    until("four at the door", || came.load(Ordering::SeqCst) == 5).await;
    let since = Instant::now();
    until("longer than it takes to connect", || since.elapsed() > slow).await;
    hands.add_permits(4);
    until("each asks again", || permits.asked.load(Ordering::SeqCst) >= first + 4).await;
    let answered = || (1..=4).filter(|n| rig.replies.has(*n)).count();
    assert_eq!(answered(), 0, "nothing leaves without it");
    permits.given.add_permits(1);
    until("one leaves", || answered() == 1).await;
    permits.given.add_permits(3);
    until("all have left", || answered() == 4).await;
    for n in 1..=4 {
        assert_eq!(rig.reply(n).await.outcome, Outcome::Charged { amount_minor: 199 });
    }
}

#[tokio::test]
async fn a_certificate_of_nobody_or_for_another_name_is_refused() {
    let port = carrier().await;
    for (with_ca, host) in [(false, "localhost"), (true, "127.0.0.1")] {
        let rig = Rig::new(&alfa(with_ca), &format!("https://{host}:{port}"));
        let reply = rig.charge(1).await;
        assert_eq!(reply.outcome, Outcome::NotSent(NotSentProof::TlsHandshake), "{with_ca} {host}");
        assert!(!reply.wrote && reply.request.is_empty());
    }
}

#[tokio::test]
async fn a_carrier_without_tls_gets_no_request() {
    let server = Server::start(|request| Do::Send(answer(201, &charged(request)))).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        }
    });
    let rig = Rig::new(&alfa(true), &format!("https://localhost:{port}"));
    assert_eq!(rig.charge(1).await.outcome, Outcome::NotSent(NotSentProof::TlsHandshake));
    assert!(server.seen().is_empty());
}

#[test]
fn a_file_without_certificates_is_refused() {
    let text = ALFA
        .replace("http://127.0.0.1:4010", "https://carrier.example")
        .replace("kind = \"http\"", &format!("kind = \"http\"\nca_file = {:?}", fixture("server-key.pem")));
    let error = carriers::HttpAdapter::new(&definition("alfa", &text), None).unwrap_err();
    assert!(error.to_string().contains("no certificate inside"), "{error}");
}
