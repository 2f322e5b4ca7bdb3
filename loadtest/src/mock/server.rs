//! The listener, the connections, and the delivery of answers, or the failure to deliver them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::io::Write;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::behaviour::Behaviour;
use super::books::{Books, Delivery, Rules};
use super::callbacks::{Messages, Sender};
use super::control;
use super::dialects::{Answer, Asked, Dialect};
use super::draw::Draw;
use super::faults::GarbageKind;
use super::ledger::Op;
use super::money::exponent_of;
use super::options::Options;
use super::socket::{Socket, Watch};
use super::{BehaviourError, MockError};

const CONNECTIONS_MAX: usize = 4_096;
const HEAD_MAX_BYTES: usize = 64 * 1024;
const BODY_MAX_BYTES: usize = 64 * 1024;
/// A body above the limit is read away this far, so that its sender gets to see the answer.
const DISCARD_MAX_BYTES: usize = 4 * 1024 * 1024;
const TICK: Duration = Duration::from_secs(1);
/// A request must be here whole after this many ticks.
const ARRIVAL_TICKS_MAX: u64 = 10;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const HUGE_BYTES: usize = 64 * 1024 * 1024;
static HUGE_FRAME: [u8; 64 * 1024] = [b'a'; 64 * 1024];

/// Plays the carrier until it is told to stop.
pub(super) async fn serve(options: Options) -> Result<(), MockError> {
    let mut stop = pin!(stop_asked(options.stdin_guard)?);
    raise_file_limit();
    let dialect = options.dialect;
    let listen = |source| MockError::Listen { address: options.listen, source };
    let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let shared = Rc::new(Shared::open(options)?);
    let ready =
        serde_json::json!({"listening": address.to_string(), "pid": std::process::id(), "dialect": dialect});
    // Whoever closed our stdout does not want to know.
    let _ = writeln!(std::io::stdout(), "{ready}");

    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::task::spawn_local(sweep(shared.clone()));
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        match (slot, accepted) {
            (Some(slot), Ok((stream, _))) => shared.admit(stream, slot),
            // Out of file descriptors, or the peer left again: neither is a reason to stop.
            _ => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    let books = shared.books.borrow();
    books.sync().map_err(|error| {
        MockError::Ledger(super::ledger::LedgerError::Io { path: shared.ledger_path.clone(), source: error })
    })
}

/// Completes on SIGTERM, SIGINT or, when asked for, the end of stdin.
fn stop_asked(stdin_guard: bool) -> Result<impl Future<Output = ()>, MockError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(MockError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(MockError::Runtime)?;
    let parent_gone = Arc::new(Notify::new());
    if stdin_guard {
        let parent_gone = parent_gone.clone();
        // A thread of its own: a read of stdin cannot be cancelled, and must not hold up the end.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            parent_gone.notify_one();
        });
    }
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = parent_gone.notified() => {}
        }
    })
}

/// Connections need file descriptors; the usual soft limit is below ours. A refusal only means fewer connections.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = CONNECTIONS_MAX as u64 + 64;
    if limit.current.is_some_and(|now| now < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// What all connections share.
struct Shared {
    books: RefCell<Books>,
    scratch: RefCell<BytesMut>,
    dialect: Dialect,
    api_key: Option<String>,
    sender: Option<Rc<Sender>>,
    draw: Draw,
    ledger_path: std::path::PathBuf,
    open_silent: Cell<u64>,
    /// Questions about requests that were answered.
    inquiries: Cell<u64>,
    ticks: Rc<Cell<u64>>,
    connections: RefCell<HashMap<u64, (AbortHandle, Rc<Watch>)>>,
    last_connection: Cell<u64>,
}

impl Shared {
    fn open(options: Options) -> Result<Self, MockError> {
        if exponent_of(&options.currency).is_none() {
            return Err(MockError::Currency(options.currency));
        }
        let behaviour = starting_behaviour(&options)?;
        let Options { dialect, currency, ledger, seed, repeat, api_key, .. } = options;
        let sender = match options.callback_url {
            Some(url) => {
                let sender = Sender::new(&url, options.callback_secret);
                Some(Rc::new(sender.ok_or(MockError::CallbackUrl(url))?))
            }
            None => None,
        };
        let books = Books::open(&ledger, Rules { dialect, currency, repeat, seed }, behaviour)?;
        Ok(Self {
            books: RefCell::new(books),
            scratch: RefCell::new(BytesMut::with_capacity(64 * 1024)),
            dialect,
            api_key,
            sender,
            draw: Draw::new(seed),
            ledger_path: ledger,
            open_silent: Cell::new(0),
            inquiries: Cell::new(0),
            // Ticks start at 1: a watch reads 0 as "nothing arrives".
            ticks: Rc::new(Cell::new(1)),
            connections: RefCell::default(),
            last_connection: Cell::new(0),
        })
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, slot: OwnedSemaphorePermit) {
        // A connection without TCP_NODELAY is slow, not wrong.
        let _ = stream.set_nodelay(true);
        let id = self.last_connection.get() + 1;
        self.last_connection.set(id);
        let watch = Rc::new(Watch::new(self.ticks.clone()));
        let session = Rc::new(Session { id, shared: self.clone(), watch: watch.clone() });
        let connection = tokio::task::spawn_local(converse(session, stream, slot));
        self.connections.borrow_mut().insert(id, (connection.abort_handle(), watch));
    }

    fn api_key_ok(&self, headers: &http::HeaderMap) -> bool {
        if self.dialect != Dialect::Priced {
            return true;
        }
        let given = headers.get("x-api-key").map(HeaderValue::as_bytes).unwrap_or_default();
        match &self.api_key {
            Some(wanted) => given == wanted.as_bytes(),
            None => !given.is_empty(),
        }
    }
}

fn starting_behaviour(options: &Options) -> Result<Behaviour, MockError> {
    let mut behaviour = match &options.behaviour {
        Some(path) => {
            let text = std::fs::read(path)
                .map_err(|source| MockError::BehaviourFile { path: path.clone(), source })?;
            Behaviour::from_json(&text)?
        }
        None => Behaviour::default(),
    };
    behaviour.latency_ms = options.latency_ms.unwrap_or(behaviour.latency_ms);
    behaviour.latency_jitter_ms = options.latency_jitter_ms.unwrap_or(behaviour.latency_jitter_ms);
    behaviour.checked().map_err(|error: BehaviourError| error.into())
}

/// Ends connections on which a request has been arriving for too long.
async fn sweep(shared: Rc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        shared.ticks.set(shared.ticks.get() + 1);
        let late: Vec<AbortHandle> = shared
            .connections
            .borrow()
            .values()
            .filter(|(_, watch)| watch.arriving_ticks() > ARRIVAL_TICKS_MAX)
            .map(|(connection, _)| connection.clone())
            .collect();
        for connection in late {
            connection.abort();
        }
    }
}

/// One connection.
struct Session {
    id: u64,
    shared: Rc<Shared>,
    watch: Rc<Watch>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.connections.borrow_mut().remove(&self.id);
    }
}

async fn converse(session: Rc<Session>, stream: TcpStream, _slot: OwnedSemaphorePermit) {
    let socket = Socket::new(stream, session.watch.clone());
    let service = service_fn(move |request| answer(session.clone(), request));
    let mut http = http1::Builder::new();
    // Small answers: one copied write is cheaper than a gathered one.
    http.auto_date_header(false).max_buf_size(HEAD_MAX_BYTES).max_header_size(HEAD_MAX_BYTES).writev(false);
    // A connection ends in an error when the peer leaves, sends no HTTP, or meets a reset. There is nobody to tell.
    let _ = http.serve_connection(socket, service).await;
}

async fn answer(session: Rc<Session>, request: Request<Incoming>) -> Result<Response<Reply>, Reset> {
    let (head, body) = request.into_parts();
    let body = read_body(body).await;
    session.watch.arrived();
    let path = head.uri.path();
    let answered = if path == session.shared.dialect.path() {
        if head.method == Method::POST {
            charge(&session, &head.headers, body).await
        } else {
            Ok(reply(StatusCode::METHOD_NOT_ALLOWED, Bytes::new()))
        }
    } else if let Some(further) = path.strip_prefix(session.shared.dialect.path()) {
        match (follow_op(further), &head.method) {
            (Some(op), &Method::POST) => follow(&session, op, &head.headers, body).await,
            (None, &Method::POST) if further == "/balance" => Ok(balance(&session.shared, body)),
            (None, &Method::GET) => Ok(status(&session.shared, further)),
            _ => Ok(reply(StatusCode::METHOD_NOT_ALLOWED, Bytes::new())),
        }
    } else if path.starts_with(control::PREFIX) {
        Ok(control_reply(&session.shared, &head.method, path, body))
    } else {
        Ok(reply(StatusCode::NOT_FOUND, Bytes::from_static(b"{\"error\":\"no such path\"}")))
    };
    session.watch.answered();
    answered
}

async fn charge(
    session: &Session,
    headers: &http::HeaderMap,
    body: Result<Bytes, TooLarge>,
) -> Result<Response<Reply>, Reset> {
    let shared = &session.shared;
    let (verdict, response, messages) = {
        let body = body.unwrap_or_default();
        let asked = shared.dialect.read(&body);
        let decided = shared.books.borrow_mut().charge(&asked, shared.api_key_ok(headers), now_us());
        match decided {
            Ok(verdict) => {
                let response = written(shared, verdict.answer, verdict.delivery, &asked);
                (verdict, response, messages(shared, verdict.answer, verdict.message, &asked))
            }
            Err(error) => {
                eprintln!(
                    "mock-carrier: ledger {}: {error}; nothing was decided",
                    shared.ledger_path.display()
                );
                return Ok(reply(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new()));
            }
        }
    };
    match (&shared.sender, messages) {
        (Some(sender), Some(messages)) if messages.early => sender.clone().send(messages).await,
        (Some(sender), Some(messages)) => {
            tokio::task::spawn_local(sender.clone().send(messages));
        }
        _ => {}
    }
    deliver(session, verdict.delivery, verdict.delay, response).await
}

/// The messages that follow an answer "accepted".
fn messages(shared: &Shared, answer: Answer, told: Option<Answer>, asked: &Asked<'_>) -> Option<Messages> {
    let (Answer::Pending { txn }, Some(told), Some(sender)) = (answer, told, &shared.sender) else {
        return None;
    };
    let books = shared.books.borrow();
    Some(sender.messages(shared.dialect, (told, txn), asked, (shared.draw, books.behaviour())))
}

/// Which request a path behind the charge's own stands for.
fn follow_op(further: &str) -> Option<Op> {
    match further {
        "/refunds" => Some(Op::Refund),
        "/reservations" => Some(Op::Reserve),
        "/confirmations" => Some(Op::Confirm),
        "/cancellations" => Some(Op::Cancel),
        _ => None,
    }
}

async fn follow(
    session: &Session,
    op: Op,
    headers: &http::HeaderMap,
    body: Result<Bytes, TooLarge>,
) -> Result<Response<Reply>, Reset> {
    let shared = &session.shared;
    let (delivery, delay, response) = {
        let body = body.unwrap_or_default();
        let follow = shared.dialect.read_follow(&body);
        let decided = shared.books.borrow_mut().follow(op, &follow, shared.api_key_ok(headers), now_us());
        let Ok((said, delivery, delay)) = decided else {
            return Ok(reply(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new()));
        };
        let mut scratch = shared.scratch.borrow_mut();
        let status = shared.dialect.write_said(&mut scratch, said, &follow.asked, &follow.parent);
        match delivery {
            Delivery::Garbage(GarbageKind::Truncated) => {
                let half = scratch.len() / 2;
                scratch.truncate(half);
            }
            Delivery::Garbage(_) => {
                scratch.clear();
                scratch.extend_from_slice(b"<!DOCTYPE html><html><body><h1>It works!</h1></body></html>");
            }
            _ => {}
        }
        (delivery, delay, reply(status, scratch.split().freeze()))
    };
    deliver(session, delivery, delay, response).await
}

/// `GET .../status/<key>`: what became of a request. Moves nothing and leaves no line in the ledger.
fn status(shared: &Shared, further: &str) -> Response<Reply> {
    let Some(key) = further.strip_prefix("/status/").filter(|key| !key.is_empty()) else {
        return reply(StatusCode::NOT_FOUND, Bytes::from_static(b"{\"error\":\"no such path\"}"));
    };
    shared.inquiries.set(shared.inquiries.get() + 1);
    let books = shared.books.borrow();
    let said = books.status_of(key, now_us());
    let mut asked = shared.dialect.read(b"{}");
    asked.key = key.into();
    asked.currency = books.currency().into();
    asked.exponent = exponent_of(books.currency()).unwrap_or(0);
    let mut scratch = shared.scratch.borrow_mut();
    let status = shared.dialect.write_said(&mut scratch, said, &asked, "");
    // The question was answered, also when the answer is that a request was refused.
    let status = if status == StatusCode::NOT_FOUND { status } else { StatusCode::OK };
    reply(status, scratch.split().freeze())
}

/// `POST .../balance`: what a line has. Moves nothing and leaves no line in the ledger.
fn balance(shared: &Shared, body: Result<Bytes, TooLarge>) -> Response<Reply> {
    let body = body.unwrap_or_default();
    let follow = shared.dialect.read_follow(&body);
    let books = shared.books.borrow();
    let (Some(line), true) = (follow.asked.line, follow.asked.currency == books.currency()) else {
        return reply(StatusCode::BAD_REQUEST, Bytes::from_static(b"{\"state\":\"INVALID\"}"));
    };
    let (there, enough) = books.balance_of(line, follow.asked.amount_minor, now_us());
    let mut scratch = shared.scratch.borrow_mut();
    shared.dialect.write_balance(&mut scratch, &follow.asked, there, enough);
    reply(StatusCode::OK, scratch.split().freeze())
}

async fn deliver(
    session: &Session,
    delivery: Delivery,
    delay: Duration,
    response: Response<Reply>,
) -> Result<Response<Reply>, Reset> {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match delivery {
        Delivery::Sent | Delivery::Garbage(_) => Ok(response),
        Delivery::Silent => {
            let _open = OpenSilent::new(session);
            pending().await
        }
        Delivery::Reset => {
            session.watch.reset();
            Err(Reset)
        }
    }
}

fn control_reply(
    shared: &Shared,
    method: &Method,
    path: &str,
    body: Result<Bytes, TooLarge>,
) -> Response<Reply> {
    let Ok(body) = body else {
        return reply(StatusCode::PAYLOAD_TOO_LARGE, Bytes::new());
    };
    let books = &mut shared.books.borrow_mut();
    let (status, body) = control::handle(
        books,
        method,
        path,
        &body,
        now_us(),
        (shared.open_silent.get(), shared.inquiries.get()),
    );
    reply(status, body)
}

fn written(shared: &Shared, answer: Answer, delivery: Delivery, asked: &Asked<'_>) -> Response<Reply> {
    let mut scratch = shared.scratch.borrow_mut();
    let status = match delivery {
        Delivery::Garbage(kind) => shared.dialect.write_garbage(&mut scratch, kind, answer, asked),
        _ => shared.dialect.write(&mut scratch, answer, asked),
    };
    let mut response = reply(status, scratch.split().freeze());
    match delivery {
        Delivery::Garbage(GarbageKind::Huge) => response.body_mut().huge_left = HUGE_BYTES,
        Delivery::Garbage(GarbageKind::Html) => {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        }
        Delivery::Sent if answer == Answer::Throttled => {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    response
}

fn reply(status: StatusCode, body: Bytes) -> Response<Reply> {
    let mut response = Response::new(Reply { first: Some(body), huge_left: 0 });
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The body is above the limit, or its connection broke.
struct TooLarge;

async fn read_body(mut body: Incoming) -> Result<Bytes, TooLarge> {
    let mut whole = BytesMut::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| TooLarge)?.into_data() else { continue };
        length += data.len();
        if length > DISCARD_MAX_BYTES {
            return Err(TooLarge);
        }
        if whole.is_empty() && body.is_end_stream() && length <= BODY_MAX_BYTES {
            return Ok(data);
        }
        if length <= BODY_MAX_BYTES {
            whole.extend_from_slice(&data);
        }
    }
    if length > BODY_MAX_BYTES { Err(TooLarge) } else { Ok(whole.freeze()) }
}

/// Counts a connection that is kept waiting, for as long as it is.
struct OpenSilent<'a>(&'a Cell<u64>);

impl<'a> OpenSilent<'a> {
    fn new(session: &'a Session) -> Self {
        let count = &session.shared.open_silent;
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for OpenSilent<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Ends the connection without an answer.
#[derive(Debug)]
struct Reset;

impl std::fmt::Display for Reset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is reset on purpose")
    }
}

impl std::error::Error for Reset {}

/// A body in one piece, or one that goes on for long.
struct Reply {
    first: Option<Bytes>,
    huge_left: usize,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.huge_left == 0 {
            return Poll::Ready(None);
        }
        self.huge_left = self.huge_left.saturating_sub(HUGE_FRAME.len());
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&HUGE_FRAME)))))
    }

    fn is_end_stream(&self) -> bool {
        self.huge_left == 0 && self.first.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.first {
            // Without a length the answer goes out in chunks: the caller has to bound it by itself.
            _ if self.huge_left > 0 => SizeHint::default(),
            Some(first) => SizeHint::with_exact(first.len() as u64),
            None => SizeHint::with_exact(0),
        }
    }
}

/// Wall time in microseconds since 1970; the ledger and the top-ups go by it.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
