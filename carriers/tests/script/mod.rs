//! A carrier by script: a raw TCP server that does exactly what a test says, and what the tests need around an
//! adapter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A module of two test programs: neither uses all of it, and nothing lies outside to export it to.
#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use billing_core::book::reader::{Problems, Source};
use billing_core::ids::{AttemptId, ChargeId, OurRef, RefSeed, SubscriptionId};
use billing_core::money::{Currency, Money};
use billing_core::outcome::Op;
use billing_core::period::Period;
use carriers::{
    Adapter, Attempt, CarrierDefinition, ExchangeKind, HttpAdapter, Msisdn, OutcomeSink, Reply, SendGuard,
    StandInSecrets,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const ALFA: &str = include_str!("../../../config/carriers/alfa.toml");
pub const HOSHI: &str = include_str!("../../../config/carriers/hoshi.toml");

/// What the server does with one request.
pub enum Do {
    /// Sends the bytes and goes on.
    Send(Vec<u8>),
    /// Sends the bytes and closes.
    SendAndClose(Vec<u8>),
    /// Closes with a reset.
    Reset,
    /// Says nothing more and keeps the connection open.
    Hang,
    /// Sends the first bytes, then the second ones again and again until the other side has had enough.
    Flood(Vec<u8>, Vec<u8>),
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Connections are counted from 0.
    pub connection: usize,
    pub bytes: Vec<u8>,
    pub body: serde_json::Value,
}

impl Seen {
    pub fn key(&self) -> String {
        self.body["amountTransaction"]["clientCorrelator"].as_str().unwrap_or_default().to_owned()
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub accepted: Arc<Mutex<usize>>,
    /// Requests in work, now and at most.
    pub at_work: Arc<Mutex<(usize, usize)>>,
}

impl Server {
    /// Starts a server that asks `script` about every request.
    pub async fn start(script: impl Fn(&Seen) -> Do + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            accepted: Arc::default(),
            at_work: Arc::default(),
        };
        let (seen, accepted, at_work) =
            (server.seen.clone(), server.accepted.clone(), server.at_work.clone());
        let script = Arc::new(script);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = {
                    let mut count = accepted.lock().unwrap();
                    *count += 1;
                    *count - 1
                };
                let (script, seen, at_work) = (script.clone(), seen.clone(), at_work.clone());
                tokio::spawn(serve(stream, connection, seen, at_work, move |request| script(request)));
            }
        });
        server
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn accepted(&self) -> usize {
        *self.accepted.lock().unwrap()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    seen: Arc<Mutex<Vec<Seen>>>,
    at_work: Arc<Mutex<(usize, usize)>>,
    script: impl Fn(&Seen) -> Do,
) {
    while let Some(bytes) = read_request(&mut stream).await {
        {
            let mut count = at_work.lock().unwrap();
            count.0 += 1;
            count.1 = count.1.max(count.0);
        }
        let start = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let body = serde_json::from_slice(&bytes[start..]).expect("the request's body is json");
        let request = Seen { connection, bytes, body };
        seen.lock().unwrap().push(request.clone());
        let act = script(&request);
        at_work.lock().unwrap().0 -= 1;
        match act {
            Do::Send(bytes) => stream.write_all(&bytes).await.unwrap(),
            Do::SendAndClose(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                return;
            }
            Do::Reset => {
                stream.set_zero_linger().unwrap();
                return;
            }
            Do::Hang => {
                let _ = stream.read_u8().await;
                return;
            }
            Do::Flood(first, then) => {
                if stream.write_all(&first).await.is_ok() {
                    while stream.write_all(&then).await.is_ok() {}
                }
                return;
            }
        }
    }
}

/// One whole request; `None` at the end. Panics when the next request comes before this one was answered.
pub async fn read_request<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let total = end + 4 + length.expect("a content-length").parse::<usize>().unwrap();
        assert!(bytes.len() <= total, "two requests interleave");
        if bytes.len() == total {
            return Some(bytes);
        }
    }
}

/// An HTTP answer with a JSON body.
pub fn answer(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// The body with which alfa says that it charged what was asked.
pub fn charged(request: &Seen) -> String {
    let asked = &request.body["amountTransaction"];
    let charging = &asked["paymentAmount"]["chargingInformation"];
    serde_json::json!({"paymentId": "p-1", "paymentStatus": "succeeded", "amountTransaction": {
        "clientCorrelator": asked["clientCorrelator"], "phoneNumber": asked["phoneNumber"],
        "paymentAmount": {"chargingInformation": {"amount": charging["amount"], "currency": charging["currency"]}}}})
    .to_string()
}

/// A definition out of a text.
pub fn definition(id: &str, text: &str) -> CarrierDefinition {
    let mut problems = Problems::default();
    let source = Source { file: format!("{id}.toml"), text: text.to_owned() };
    CarrierDefinition::read(&source, &StandInSecrets, &mut problems).unwrap_or_else(|| panic!("{problems}"))
}

/// alfa with one connection and a short patience.
pub fn alfa(in_flight: usize) -> CarrierDefinition {
    let text = ALFA
        .replace("in_flight_max = 32", &format!("in_flight_max = {in_flight}"))
        .replace("reply_timeout = \"8s\"", "reply_timeout = \"400ms\"");
    definition("alfa", &text)
}

/// Attempt number `n`, over 1.99 EUR.
pub fn attempt(n: u64) -> Attempt {
    attempt_of(n, 199, "EUR", "34600000001")
}

pub fn attempt_of(n: u64, minor: i64, currency: &str, line: &str) -> Attempt {
    let period = Period::starting(jiff::civil::date(2026, 11, 21), 360).unwrap();
    let charge = ChargeId { subscription: SubscriptionId(1 << 44 | n as i64), period };
    Attempt {
        ticket: n,
        id: AttemptId { charge, attempt_no: 1 },
        our_ref: OurRef::new(RefSeed(n as i64), period, 1).unwrap(),
        op: Op::Charge,
        msisdn: Msisdn::parse(line).unwrap(),
        amount: Money::new(minor, Currency::from_code(currency).unwrap()),
        text: "Daily horoscope".into(),
        intent_at: jiff::Timestamp::from_second(1_795_255_200).unwrap(),
        kind: ExchangeKind::Send,
        carrier_txn_id: None,
        parent_ref: None,
        parent_txn_id: None,
    }
}

/// A running adapter.
pub struct Rig {
    pub adapter: Arc<HttpAdapter>,
    pub queue: async_channel::Sender<Attempt>,
    pub replies: Arc<Replies>,
    pub running: tokio::task::JoinHandle<()>,
}

/// Replies by ticket, as they came.
#[derive(Default)]
pub struct Replies(Mutex<HashMap<u64, Vec<Reply>>>);

impl Replies {
    pub fn has(&self, ticket: u64) -> bool {
        self.0.lock().unwrap().contains_key(&ticket)
    }
}

impl OutcomeSink for Replies {
    fn deliver(&self, reply: Reply) {
        self.0.lock().unwrap().entry(reply.ticket).or_default().push(reply);
    }
}

/// A guard made of a function.
pub struct Asked<F>(pub F);

impl<F: Fn(&Attempt) -> bool + Send + Sync> SendGuard for Asked<F> {
    fn may_send(&self, attempt: &Attempt) -> bool {
        self.0(attempt)
    }
}

impl Rig {
    pub fn new(definition: &CarrierDefinition, base: &str) -> Self {
        Self::guarded(definition, base, |_| true)
    }

    pub fn guarded(
        definition: &CarrierDefinition,
        base: &str,
        guard: impl Fn(&Attempt) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::with(definition, base, Arc::new(Asked(guard)))
    }

    pub fn with(definition: &CarrierDefinition, base: &str, guard: Arc<dyn SendGuard>) -> Self {
        let adapter = Arc::new(HttpAdapter::new(definition, Some(base)).unwrap());
        let (queue, attempts) = async_channel::bounded(1_000);
        let replies = Arc::new(Replies::default());
        let running = tokio::spawn(adapter.clone().run(attempts, guard, replies.clone()));
        Self { adapter, queue, replies, running }
    }

    /// Sends attempt `n` and waits for its reply.
    pub async fn charge(&self, n: u64) -> Reply {
        self.send(attempt(n)).await
    }

    pub async fn send(&self, attempt: Attempt) -> Reply {
        let ticket = attempt.ticket;
        self.queue.send(attempt).await.unwrap();
        self.reply(ticket).await
    }

    pub async fn reply(&self, ticket: u64) -> Reply {
        until("a reply", || self.replies.0.lock().unwrap().contains_key(&ticket)).await;
        let replies = self.replies.0.lock().unwrap();
        assert_eq!(replies[&ticket].len(), 1, "one attempt, one reply");
        replies[&ticket][0].clone()
    }

    /// Closes the queue and waits for the end; every reply, one per attempt.
    pub async fn finish(self) -> HashMap<u64, Vec<Reply>> {
        self.queue.close();
        self.running.await.unwrap();
        std::mem::take(&mut *self.replies.0.lock().unwrap())
    }
}

/// Waits for a condition, at most 10 s.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 10 s for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
