//! Messages about charges that were answered "accepted": signed, and sent late, twice, early, forged, contrary or never,
//! as the behaviour says. A message is tried three times; whoever has not taken it then never gets it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::behaviour::Behaviour;
use super::dialects::{Answer, Asked, Dialect};
use super::draw::{Draw, Purpose};

/// Messages on their way at a time.
const AT_ONCE_MAX: usize = 64;
const TRIES: u32 = 3;
const DEADLINE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);
const BLOCK_BYTES: usize = 64;

/// Where messages go and how they are signed.
pub(super) struct Sender {
    /// `host:port` and the path behind it.
    target: (String, String),
    secret: String,
    slots: Arc<Semaphore>,
}

/// The messages about one charge.
pub(super) struct Messages {
    /// Body and signature, in the sequence in which they are sent.
    bodies: Vec<(Vec<u8>, String)>,
    delay: Duration,
    /// They go out before the answer does.
    pub(super) early: bool,
}

impl Sender {
    /// `None` for an address that is not `http://host:port/path`.
    pub(super) fn new(url: &str, secret: String) -> Option<Self> {
        let (authority, path) = url.strip_prefix("http://")?.split_once('/')?;
        let slots = Arc::new(Semaphore::new(AT_ONCE_MAX));
        Some(Self { target: (authority.to_owned(), format!("/{path}")), secret, slots })
    }

    /// The messages about a charge, as the behaviour wants them.
    pub(super) fn messages(
        &self,
        dialect: Dialect,
        (answer, txn): (Answer, u64),
        asked: &Asked<'_>,
        (draw, behaviour): (Draw, &Behaviour),
    ) -> Messages {
        let name = Draw::name(&asked.key);
        let hit = |purpose, share: u32| share > draw.ppm(purpose, name);
        let (event, reason, minor) = match answer {
            Answer::Charged { said_minor, .. } => ("charge.charged", "", said_minor),
            Answer::Refused(refusal) => ("charge.refused", refusal.name(), asked.amount_minor.unwrap_or(0)),
            _ => ("charge.unknown", "", 0),
        };
        let contrary =
            if event == "charge.charged" { ("charge.refused", "no_funds") } else { ("charge.charged", "") };
        let write = |id: String, (event, reason): (&str, &str)| {
            let mut body = BytesMut::new();
            let minor = if minor == 0 { asked.amount_minor.unwrap_or(0) } else { minor };
            dialect.write_message(&mut body, (&id, event, reason), asked, (txn, minor));
            body.to_vec()
        };
        let mut bodies = Vec::new();
        if hit(Purpose::CallbackForged, behaviour.callback_forged_ppm) {
            let body = write(format!("m-{txn}-forged"), contrary);
            bodies.push((body.clone(), sign("somebody else's secret", &body)));
        }
        if !hit(Purpose::CallbackLost, behaviour.callback_lost_ppm) {
            let body = write(format!("m-{txn}"), (event, reason));
            let signed = (body.clone(), sign(&self.secret, &body));
            if hit(Purpose::CallbackTwice, behaviour.callback_twice_ppm) {
                bodies.push(signed.clone());
            }
            bodies.push(signed);
        }
        if hit(Purpose::CallbackContrary, behaviour.callback_contrary_ppm) {
            let body = write(format!("m-{txn}-contrary"), contrary);
            bodies.push((body.clone(), sign(&self.secret, &body)));
        }
        let early = hit(Purpose::CallbackEarly, behaviour.callback_early_ppm);
        let delay = if early { Duration::ZERO } else { Duration::from_millis(behaviour.callback_delay_ms) };
        Messages { bodies, delay, early }
    }

    /// Sends them one after another.
    pub(super) async fn send(self: Rc<Self>, messages: Messages) {
        tokio::time::sleep(messages.delay).await;
        let Ok(_slot) = self.slots.clone().acquire_owned().await else { return };
        for (body, signature) in messages.bodies {
            for _ in 0..TRIES {
                match tokio::time::timeout(DEADLINE, self.post(&body, &signature)).await {
                    Ok(Ok(status)) if status.starts_with('2') || status.starts_with('4') => break,
                    _ => tokio::time::sleep(PAUSE).await,
                }
            }
        }
    }

    /// The status of the answer, as text.
    async fn post(&self, body: &[u8], signature: &str) -> std::io::Result<String> {
        let (authority, path) = &self.target;
        let mut stream = TcpStream::connect(authority).await?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n\
             x-hoshi-signature: sha256={signature}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
        let mut answer = [0_u8; 12];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8_lossy(answer.get(9..).unwrap_or_default()).into_owned())
    }
}

/// HMAC-SHA256 in hexadecimal (RFC 2104).
fn sign(secret: &str, body: &[u8]) -> String {
    let mut key = [0_u8; BLOCK_BYTES];
    if secret.len() > BLOCK_BYTES {
        key.iter_mut().zip(Sha256::digest(secret)).for_each(|(to, from)| *to = from);
    } else {
        key.iter_mut().zip(secret.bytes()).for_each(|(to, from)| *to = from);
    }
    let pad = |with: u8| key.iter().map(|byte| byte ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([&pad(0x36)[..], body].concat());
    let outer = Sha256::digest([&pad(0x5c)[..], &inner[..]].concat());
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_rfc_4231_does() {
        let signed = sign("Jefe", b"what do ya want for nothing?");
        assert_eq!(signed, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
