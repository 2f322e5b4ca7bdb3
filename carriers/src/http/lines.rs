//! A line: one connection loop. It pulls an attempt, speaks with the carrier, delivers one reply, and pulls again.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use billing_core::outcome::{Doubt, NotSentProof, Outcome};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::exchange::{Broken, Clock, Complete, Connection, HEAD_BYTES_MAX};
use super::tee::Recording;
use super::{HttpAdapter, connect::DialError};
use crate::adapter::{Alert, Attempt, ExchangeKind, OutcomeSink, Reply, SendGuard};
use crate::dialect::replies::{Answer, Reading};

/// Who waits for a permit asks the guard as often as this whether it would still let it go.
const GUARD_LOOK: Duration = Duration::from_millis(250);

/// What the lines of one run share.
pub(super) struct Shared {
    pub(super) adapter: Arc<HttpAdapter>,
    pub(super) queue: async_channel::Receiver<Attempt>,
    pub(super) guard: Arc<dyn SendGuard>,
    pub(super) sink: Arc<dyn OutcomeSink>,
    /// Lines that wait at the queue.
    listening: AtomicU32,
    /// Calls one more line to the queue.
    call: Notify,
}

impl Shared {
    pub(super) fn new(
        adapter: Arc<HttpAdapter>,
        queue: async_channel::Receiver<Attempt>,
        guard: Arc<dyn SendGuard>,
        sink: Arc<dyn OutcomeSink>,
    ) -> Self {
        let call = Notify::new();
        call.notify_one();
        Self { adapter, queue, guard, sink, listening: AtomicU32::new(0), call }
    }

    /// A line begins to wait.
    fn listen(&self) {
        self.listening.fetch_add(1, Ordering::SeqCst);
    }

    /// A line stopped waiting. The last one calls the next, so that somebody waits as long as a line is left; a
    /// carrier with little to do keeps few connections, because nobody calls the other lines.
    fn stopped_listening(&self) {
        if self.listening.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.call.notify_one();
        }
    }
}

/// Works until the queue is closed and drained. A panic costs the attempt in hand (answered as unknown), not the
/// line: a new one takes its place.
pub(super) async fn keep_going(shared: Arc<Shared>) {
    shared.call.notified().await;
    loop {
        match tokio::spawn(work(shared.clone())).await {
            Err(died) if died.is_panic() => {
                tracing::error!(carrier = %shared.adapter.id, "a connection loop panicked and is replaced");
            }
            _ => break,
        }
    }
    // The queue has ended: those who were never called must hear it too.
    shared.call.notify_one();
}

async fn work(shared: Arc<Shared>) {
    let mut line = Line {
        recording: Arc::new(Recording::default()),
        connection: None,
        clock: Clock::new(),
        scratch: Vec::new(),
        adapter: &shared.adapter,
        guard: &*shared.guard,
        // It was called because nobody else waits.
        listening: true,
    };
    shared.listen();
    while let Some(attempt) = line.next(&shared).await {
        let _place = shared.adapter.in_flight.enter().await;
        let hand = InHand::new(&attempt, &shared.adapter, &line.recording, &*shared.sink);
        let reply = line.perform(&attempt).await;
        hand.deliver(reply);
    }
}

struct Line<'a> {
    adapter: &'a HttpAdapter,
    guard: &'a dyn SendGuard,
    recording: Arc<Recording>,
    connection: Option<Held<'a>>,
    clock: Clock,
    scratch: Vec<u8>,
    /// It counts among those who wait.
    listening: bool,
}

/// An open connection, counted.
struct Held<'a> {
    connection: Connection,
    adapter: &'a HttpAdapter,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.adapter.gauges.closed();
    }
}

/// What a conversation came to, before it is told.
struct Told {
    reading: Reading,
    /// When the first byte was about to be written, and how long the rest took, microseconds.
    sent: Option<(Timestamp, u32)>,
    answered_at: Timestamp,
}

impl<'a> Line<'a> {
    /// The next attempt. Meanwhile the connection is watched: it is closed when the carrier closes it, or when it
    /// has been idle for too long.
    async fn next(&mut self, shared: &Shared) -> Option<Attempt> {
        let mut next = shared.queue.try_recv().ok();
        if next.is_none() {
            if !std::mem::replace(&mut self.listening, true) {
                shared.listen();
            }
            next = self.wait(shared).await;
        }
        if std::mem::replace(&mut self.listening, false) {
            shared.stopped_listening();
        }
        next
    }

    async fn wait(&mut self, shared: &Shared) -> Option<Attempt> {
        let idle_until = Instant::now() + self.adapter.idle_timeout;
        let mut coming = pin!(shared.queue.recv());
        std::future::poll_fn(|cx| {
            if let Poll::Ready(attempt) = coming.as_mut().poll(cx) {
                return Poll::Ready(attempt.ok());
            }
            if let Some(held) = &mut self.connection {
                let ended = held.connection.poll_end(cx).is_ready();
                if ended || self.clock.poll_until(idle_until, cx).is_ready() {
                    self.connection = None;
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Exactly one reply. Writes the attempt's request at most once.
    async fn perform(&mut self, attempt: &Attempt) -> Reply {
        self.recording.begin(self.response_bytes_max());
        let told = self.converse(attempt).await;
        let mut taken = self.recording.take();
        // Proven: without a written byte nothing that happened can be doubtful.
        let sent = told.sent.filter(|_| taken.wrote);
        self.adapter.mask.apply(&mut taken.request);
        self.adapter.mask.apply(&mut taken.response);
        let reading = told.reading.for_kind(attempt.kind);
        Reply {
            ticket: attempt.ticket,
            kind: attempt.kind,
            outcome: reading.outcome,
            finding: reading.finding,
            carrier_code: reading.carrier_code,
            carrier_txn_id: reading.carrier_txn_id,
            wrote: taken.wrote,
            request: taken.request,
            response: taken.response,
            sent_at: sent.map(|(at, _)| at),
            answered_at: told.answered_at,
            latency_us: sent.map_or(0, |(_, latency_us)| latency_us),
            alert: reading.alert,
        }
    }

    async fn converse(&mut self, attempt: &Attempt) -> Told {
        let adapter = self.adapter;
        // A connection that is found dead before a byte left is replaced once; that is no second try.
        let mut replaced = false;
        loop {
            let Ok(request) = adapter.request(attempt, &mut self.scratch) else {
                return not_sent(NotSentProof::NotBuilt, Some(Alert::NotBuilt));
            };
            let (mut held, slowly) = match self.connected(&mut replaced).await {
                Ok(held) => held,
                Err(failed) => return not_sent(failed.proof, failed.alert),
            };
            if slowly {
                // For as long as the guard would let it go.
                while self.guard.may_send(attempt)
                    && tokio::time::timeout(GUARD_LOOK, self.guard.permit_again()).await.is_err()
                {
                }
            }
            if !self.guard.may_send(attempt) {
                self.connection = Some(held);
                return not_sent(NotSentProof::Guard, None);
            }
            self.recording.begin(self.response_bytes_max());
            let (sent_at, started) = (Timestamp::now(), Instant::now());
            let deadline = started + adapter.reply_timeout;
            let result =
                held.connection.exchange(request, adapter.body_bytes_max, &mut self.clock, deadline).await;
            let answered_at = Timestamp::now();
            let latency_us = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
            let broken = match result {
                Ok(answer) => {
                    self.connection = Some(held);
                    adapter.gauges.answered(answered_at);
                    let reading = read(adapter, &answer, answered_at, attempt);
                    return Told { reading, sent: Some((sent_at, latency_us)), answered_at };
                }
                Err(broken) => broken,
            };
            // Closed before anything else happens: no byte of this request can leave any more.
            drop(held);
            if self.recording.wrote() {
                return Told { reading: self.doubt(broken), sent: Some((sent_at, latency_us)), answered_at };
            }
            if replaced || broken == Broken::Late {
                return not_sent(NotSentProof::Connect, None);
            }
            replaced = true;
        }
    }

    /// The open connection when it is alive, else a fresh one; and whether that took longer than it does.
    async fn connected(&mut self, replaced: &mut bool) -> Result<(Held<'a>, bool), DialError> {
        let (adapter, began) = (self.adapter, Instant::now());
        if let Some(mut held) = self.connection.take() {
            if held.connection.usable(&mut self.clock, adapter.connect_timeout).await {
                return Ok((held, adapter.gauges.connects_slowly(began.elapsed())));
            }
            *replaced = true;
        }
        let dialed = Instant::now();
        let opened = match adapter.dialer.dial().await {
            Ok(stream) => Connection::open(stream, self.recording.clone())
                .await
                .map_err(|_| DialError { proof: NotSentProof::Connect, alert: None }),
            Err(error) => Err(error),
        };
        match opened {
            Ok(connection) => {
                let slowly = adapter.gauges.connects_slowly(began.elapsed());
                adapter.gauges.opened(dialed);
                Ok((Held { connection, adapter }, slowly))
            }
            Err(error) => {
                adapter.gauges.failed();
                Err(error)
            }
        }
    }

    /// A byte left and no complete answer came back.
    fn doubt(&self, broken: Broken) -> Reading {
        let (overflowed, cut) = self.recording.received();
        let unreadable = overflowed || broken == Broken::Unreadable || (broken == Broken::Lost && cut);
        let (doubt, alert) = if unreadable {
            (Doubt::Unreadable, Some(Alert::UnreadableAnswer))
        } else {
            (Doubt::NoReply, None)
        };
        Reading::unanswered(Outcome::Unknown(doubt), alert)
    }

    /// Head and body with room for chunk sizes and interim answers; beyond it reading stops.
    fn response_bytes_max(&self) -> usize {
        2 * (HEAD_BYTES_MAX + self.adapter.body_bytes_max)
    }
}

fn read(adapter: &HttpAdapter, answer: &Complete, at: Timestamp, attempt: &Attempt) -> Reading {
    let status = answer.head.status.as_u16();
    let answer = Answer { status, headers: &answer.head.headers, body: &answer.body, at };
    match adapter.spoken(attempt) {
        Some(spoken) => spoken.operation.replies.read(answer, attempt),
        // The request was made of the same table: this cannot be.
        None => Reading::unanswered(Outcome::Unknown(Doubt::Unreadable), Some(Alert::UnreadableAnswer)),
    }
}

fn not_sent(proof: NotSentProof, alert: Option<Alert>) -> Told {
    Told {
        reading: Reading::unanswered(Outcome::NotSent(proof), alert),
        sent: None,
        answered_at: Timestamp::now(),
    }
}

/// Sees to it that the attempt in hand is answered, whatever happens to the loop.
struct InHand<'a> {
    ticket: u64,
    kind: ExchangeKind,
    adapter: &'a HttpAdapter,
    recording: Arc<Recording>,
    sink: &'a dyn OutcomeSink,
    answered: bool,
}

impl<'a> InHand<'a> {
    fn new(
        attempt: &Attempt,
        adapter: &'a HttpAdapter,
        recording: &Arc<Recording>,
        sink: &'a dyn OutcomeSink,
    ) -> Self {
        adapter.gauges.took();
        let (ticket, kind) = (attempt.ticket, attempt.kind);
        Self { ticket, kind, adapter, recording: recording.clone(), sink, answered: false }
    }

    fn deliver(mut self, reply: Reply) {
        self.answered = true;
        self.sink.deliver(reply);
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.adapter.gauges.gave();
        if self.answered {
            return;
        }
        let mut taken = self.recording.take();
        self.adapter.mask.apply(&mut taken.request);
        self.adapter.mask.apply(&mut taken.response);
        let lost = Reading::unanswered(Outcome::Unknown(Doubt::NoReply), None).for_kind(self.kind);
        self.sink.deliver(Reply {
            ticket: self.ticket,
            kind: self.kind,
            outcome: lost.outcome,
            finding: lost.finding,
            carrier_code: None,
            carrier_txn_id: None,
            wrote: true,
            request: taken.request,
            response: taken.response,
            sent_at: None,
            answered_at: Timestamp::now(),
            latency_us: 0,
            alert: Some(Alert::SenderDied),
        });
    }
}
