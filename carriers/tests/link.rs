//! The HTTP link against a scripted server: what was sent, what was believed, and what was proven.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod script;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use billing_core::outcome::{Doubt, NotSentProof, Outcome, Refusal};
use carriers::{Adapter, Alert, Reply};
use script::{Do, HOSHI, Rig, Seen, Server, alfa, answer, attempt, attempt_of, charged, definition, until};
use tokio::net::TcpListener;

const CHARGED: Outcome = Outcome::Charged { amount_minor: 199 };

fn unknown(doubt: Doubt) -> Outcome {
    Outcome::Unknown(doubt)
}

/// The reply to one attempt when the server does one thing.
async fn one(act: impl Fn(&Seen) -> Do + Send + Sync + 'static) -> (Reply, Server) {
    let server = Server::start(act).await;
    let rig = Rig::new(&alfa(1), &server.base());
    let reply = rig.charge(1).await;
    (reply, server)
}

#[tokio::test]
async fn success_keeps_the_connection_and_the_exact_bytes() {
    let server = Server::start(|request| Do::Send(answer(201, &charged(request)))).await;
    let rig = Rig::new(&alfa(1), &server.base());
    for n in 1..=3 {
        let before = jiff::Timestamp::now();
        let reply = rig.charge(n).await;
        assert_eq!((reply.outcome, reply.wrote, reply.alert), (CHARGED, true, None));
        assert_eq!(reply.carrier_txn_id.as_deref(), Some("p-1"));
        let seen = server.seen().pop().unwrap();
        assert_eq!(String::from_utf8(reply.request).unwrap(), String::from_utf8(seen.bytes.clone()).unwrap());
        assert_eq!(reply.response, answer(201, &charged(&seen)));
        assert_eq!(seen.key(), attempt(n).our_ref.to_string());
        let sent_at = reply.sent_at.unwrap();
        assert!(before <= sent_at && sent_at <= reply.answered_at);
        assert!(reply.latency_us > 0);
    }
    assert_eq!(server.accepted(), 1);
    let head = String::from_utf8(server.seen()[0].bytes.clone()).unwrap();
    assert!(head.starts_with("POST /payments HTTP/1.1\r\nhost: 127.0.0.1:"), "{head}");
    assert!(head.contains(&format!("\r\nx-correlator: {}\r\n", attempt(1).id)), "{head}");
    let state = rig.adapter.link_state();
    assert_eq!((state.connections, state.in_flight, state.connect_failures), (1, 0, 0));
    assert!(state.last_answer_at.is_some());
    rig.finish().await;
}

#[tokio::test]
async fn a_body_in_chunks_and_pieces_is_read_whole() {
    let (reply, _server) = one(|request| {
        let body = charged(request);
        let (first, second) = body.split_at(20);
        let head = "HTTP/1.1 201 X\r\ntransfer-encoding: chunked\r\n\r\n";
        let text = format!("{head}14\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", second.len());
        Do::Send(text.into_bytes())
    })
    .await;
    assert_eq!(reply.outcome, CHARGED);
}

#[tokio::test]
async fn nobody_listening_is_proof_that_nothing_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let rig = Rig::new(&alfa(1), &base);
    let reply = rig.charge(1).await;
    assert_eq!(reply.outcome, Outcome::NotSent(NotSentProof::Connect));
    assert!(!reply.wrote && reply.request.is_empty() && reply.sent_at.is_none());
    assert_eq!(rig.adapter.link_state().connect_failures, 1);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_proof_that_nothing_left() {
    let text = script::ALFA.replace("http://127.0.0.1:4010", "https://no-such-host.invalid");
    let definition = definition("alfa", &text);
    let rig = Rig::new(&definition, "https://no-such-host.invalid");
    assert_eq!(rig.charge(1).await.outcome, Outcome::NotSent(NotSentProof::NameResolution));
}

/// Makes sure that the runtime has looked at everything that happened on its sockets until now: sends a byte
/// through it and waits until it has arrived. To be called from a thread that may block.
struct Barrier {
    poke: Mutex<std::net::TcpStream>,
    seen: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Barrier {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let poke = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let (arrived, seen) = std::sync::mpsc::channel();
        tokio::spawn(async move {
            while tokio::io::AsyncReadExt::read_u8(&mut stream).await.is_ok() {
                let _ = arrived.send(());
            }
        });
        Self { poke: Mutex::new(poke), seen: Mutex::new(seen) }
    }

    fn pass(&self) {
        // The runtime must not count on the thread that waits.
        tokio::task::block_in_place(|| {
            std::io::Write::write_all(&mut *self.poke.lock().unwrap(), b"x").unwrap();
            self.seen.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap();
        });
    }
}

/// A server that closes its first connections (as many as `closes`) the moment the guard is asked, so that the
/// adapter finds them dead before it writes.
async fn closing_before_the_write(closes: usize) -> (Reply, Arc<AtomicU32>, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (accepted, connections) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = accepted.send(stream.unwrap());
        }
    });
    let requests = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::new(AtomicU32::new(0));
    let barrier = Barrier::new().await;
    let (seen, count, connections) = (requests.clone(), asked.clone(), Mutex::new(connections));
    let rig = Rig::guarded(&alfa(1), &base, move |_| {
        let nth = count.fetch_add(1, Ordering::Relaxed) as usize;
        let stream = connections.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap();
        if nth < closes {
            drop(stream);
            barrier.pass();
            return true;
        }
        let seen = seen.clone();
        std::thread::spawn(move || {
            let mut stream = stream;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                stream.set_nonblocking(true).unwrap();
                let mut socket = tokio::net::TcpStream::from_std(stream.try_clone().unwrap()).unwrap();
                let bytes = script::read_request(&mut socket).await.unwrap();
                let start = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
                let body = serde_json::from_slice(&bytes[start..]).unwrap();
                let request = Seen { connection: nth, bytes: bytes.clone(), body };
                seen.lock().unwrap().push(bytes);
                tokio::io::AsyncWriteExt::write_all(&mut socket, &answer(201, &charged(&request)))
                    .await
                    .unwrap();
            });
            std::io::Write::flush(&mut stream).unwrap();
        });
        true
    });
    let reply = rig.charge(1).await;
    (reply, asked, requests)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_connection_closed_before_the_write_is_replaced_once() {
    let (reply, asked, requests) = closing_before_the_write(1).await;
    assert_eq!((reply.outcome, reply.wrote), (CHARGED, true));
    // The guard is asked again for the second connection, and one request left.
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(*requests.lock().unwrap(), [reply.request]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_second_connection_closed_before_the_write_ends_it_unsent() {
    let (reply, asked, requests) = closing_before_the_write(9).await;
    assert_eq!(reply.outcome, Outcome::NotSent(NotSentProof::Connect));
    assert!(!reply.wrote && reply.request.is_empty() && reply.sent_at.is_none());
    assert_eq!((asked.load(Ordering::Relaxed), requests.lock().unwrap().len()), (2, 0));
}

#[tokio::test]
async fn a_reset_after_the_write_is_unknown_and_never_repeated() {
    let (reply, server) = one(|_| Do::Reset).await;
    assert_eq!((reply.outcome, reply.wrote), (unknown(Doubt::NoReply), true));
    assert_eq!((server.seen().len(), server.accepted()), (1, 1));
    assert_eq!(reply.request, server.seen()[0].bytes);
    assert!(reply.response.is_empty() && reply.sent_at.is_some());
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_costs_the_connection() {
    let server = Server::start(|request| {
        if request.connection == 0 { Do::Hang } else { Do::Send(answer(201, &charged(request))) }
    })
    .await;
    let rig = Rig::new(&alfa(1), &server.base());
    let started = Instant::now();
    let reply = rig.charge(1).await;
    let waited = started.elapsed();
    assert_eq!((reply.outcome, reply.wrote), (unknown(Doubt::NoReply), true));
    assert!(waited >= Duration::from_millis(400) && waited < Duration::from_secs(3), "{waited:?}");
    assert!(reply.latency_us >= 400_000);
    // What comes late on the old connection can no longer be taken for the next answer.
    assert_eq!(rig.charge(2).await.outcome, CHARGED);
    assert_eq!((server.seen().len(), server.accepted()), (2, 2));
}

#[tokio::test]
async fn answers_that_are_no_answers_are_unreadable() {
    type Act = fn(&Seen) -> Do;
    let cases: [(&str, Act); 11] = [
        ("html", |_| Do::Send(answer(200, "<html>It works</html>"))),
        ("empty", |_| Do::Send(answer(201, ""))),
        ("cut in the body", |request| {
            let whole = answer(201, &charged(request));
            Do::SendAndClose(whole[..whole.len() - 1].to_vec())
        }),
        ("cut in the head", |request| Do::SendAndClose(answer(201, &charged(request))[..30].to_vec())),
        ("cut in a chunk", |_| {
            Do::SendAndClose(b"HTTP/1.1 201 X\r\ntransfer-encoding: chunked\r\n\r\n50\r\n{\"a\":".to_vec())
        }),
        ("not http", |_| Do::SendAndClose(b"OK 123\n".to_vec())),
        ("compressed", |request| {
            let body = charged(request);
            let head =
                format!("HTTP/1.1 201 X\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len());
            Do::Send([head.into_bytes(), body.into_bytes()].concat())
        }),
        ("too long, announced", |_| {
            Do::Send(b"HTTP/1.1 201 X\r\ncontent-length: 1000000000\r\n\r\n{".to_vec())
        }),
        ("too long, in chunks", |_| {
            let chunk = [b"1000\r\n".as_slice(), &[b' '; 4_096], b"\r\n"].concat();
            Do::Flood(b"HTTP/1.1 201 X\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(), chunk)
        }),
        ("endless head", |_| {
            Do::Flood(b"HTTP/1.1 201 X\r\n".to_vec(), b"x-padding: 0123456789\r\n".to_vec())
        }),
        ("endless interim answers", |_| Do::Flood(Vec::new(), b"HTTP/1.1 102 Processing\r\n\r\n".to_vec())),
    ];
    for (name, act) in cases {
        let (reply, server) = one(act).await;
        assert_eq!(reply.outcome, unknown(Doubt::Unreadable), "{name}");
        assert_eq!((reply.alert, reply.wrote), (Some(Alert::UnreadableAnswer), true), "{name}");
        assert!(!reply.response.is_empty() && reply.response.len() < 400_000, "{name}");
        assert_eq!((server.seen().len(), server.accepted()), (1, 1), "{name}");
    }
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_read_and_one_byte_more_is_not() {
    for (padding, good) in [(65_536, true), (65_537, false)] {
        let (reply, _server) = one(move |request| {
            let body = charged(request);
            let spaces = " ".repeat(padding - body.len());
            Do::Send(answer(201, &(body + &spaces)))
        })
        .await;
        assert_eq!(reply.outcome == CHARGED, good, "{padding}");
    }
}

#[tokio::test]
async fn answers_that_contradict_the_request_are_never_believed() {
    type Change = fn(String, &Seen) -> String;
    let cases: [(Change, Alert); 3] = [
        (|body, _| body.replace("1.99", "1.98"), Alert::WrongAmount),
        (|body, request| body.replace(&request.key(), "another"), Alert::WrongKey),
        (|body, _| body.replace("EUR", "USD"), Alert::WrongCurrency),
    ];
    for (change, alert) in cases {
        let (reply, _server) =
            one(move |request| Do::Send(answer(201, &change(charged(request), request)))).await;
        assert_eq!((reply.outcome, reply.alert), (unknown(Doubt::Contradictory), Some(alert)));
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (reply, server) = one(|request| {
        let head = format!("HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/{}\r\n", request.key());
        Do::Send(format!("{head}content-length: 2\r\n\r\n{{}}").into_bytes())
    })
    .await;
    assert_eq!((reply.outcome, reply.alert), (unknown(Doubt::Unlisted), Some(Alert::UnlistedCode)));
    assert_eq!((reply.carrier_code.as_deref(), server.seen().len()), (Some("307"), 1));
}

#[tokio::test]
async fn a_refusal_of_the_guard_writes_nothing() {
    let server = Server::start(|request| Do::Send(answer(201, &charged(request)))).await;
    let rig = Rig::guarded(&alfa(1), &server.base(), |attempt| attempt.ticket != 2);
    assert_eq!(rig.charge(1).await.outcome, CHARGED);
    let reply = rig.charge(2).await;
    assert_eq!(reply.outcome, Outcome::NotSent(NotSentProof::Guard));
    assert!(!reply.wrote && reply.request.is_empty() && reply.response.is_empty() && reply.sent_at.is_none());
    assert_eq!(rig.charge(3).await.outcome, CHARGED);
    let keys: Vec<String> = server.seen().iter().map(Seen::key).collect();
    assert_eq!(keys, [1, 3].map(|n| attempt(n).our_ref.to_string()));
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn what_cannot_be_asked_is_not_sent() {
    let server = Server::start(|request| Do::Send(answer(201, &charged(request)))).await;
    let rig = Rig::new(&alfa(1), &server.base());
    let line = "34600000001";
    let mut refund = attempt(5);
    refund.op = billing_core::outcome::Op::Refund;
    let wrong = [
        attempt_of(1, 199, "USD", line),
        attempt_of(2, 9, "EUR", line),
        attempt_of(3, 5_001, "EUR", line),
        attempt_of(4, -199, "EUR", line),
        refund,
    ];
    for attempt in wrong {
        let reply = rig.send(attempt).await;
        assert_eq!((reply.outcome, reply.wrote), (Outcome::NotSent(NotSentProof::NotBuilt), false));
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_gets_its_own_answer_and_none_interleave() {
    // The server panics (and the attempts stay without a good answer) when two requests meet on one connection.
    let server = Server::start(|request| {
        let no_funds = request.key().bytes().map(u32::from).sum::<u32>() % 3 == 0;
        let refusal = r#"{"code":"CARRIER_BILLING.PAYMENT_DENIED","message":"insufficient balance"}"#;
        Do::Send(if no_funds { answer(403, refusal) } else { answer(201, &charged(request)) })
    })
    .await;
    let rig = Rig::new(&alfa(4), &server.base());
    for n in 1..=300 {
        rig.queue.send(attempt(n)).await.unwrap();
    }
    let replies = rig.finish().await;
    assert_eq!(replies.len(), 300);
    for (n, replies) in replies {
        let [reply] = replies.as_slice() else { panic!("{n} has {} replies", replies.len()) };
        let key = attempt(n).our_ref.to_string();
        let no_funds = key.bytes().map(u32::from).sum::<u32>() % 3 == 0;
        let expected = if no_funds { Outcome::Declined(Refusal::NoFunds) } else { CHARGED };
        assert_eq!(reply.outcome, expected);
        assert!(String::from_utf8_lossy(&reply.request).contains(&key));
    }
    assert_eq!(server.seen().len(), 300);
    assert!(server.accepted() <= 4);
    assert!(server.at_work.lock().unwrap().1 <= 4);
}

#[tokio::test]
async fn only_as_many_connections_as_are_needed() {
    let server = Server::start(|request| Do::Send(answer(201, &charged(request)))).await;
    let rig = Rig::new(&alfa(64), &server.base());
    for n in 1..=100 {
        assert_eq!(rig.charge(n).await.outcome, CHARGED);
    }
    // One at a time: one line works while another waits.
    assert!(server.accepted() <= 2, "{}", server.accepted());
    assert_eq!(rig.finish().await.len(), 100);
}

#[tokio::test]
async fn slow_answers_are_waited_for_together() {
    // No request is answered before 64 are there.
    let arrived = Arc::new(tokio::sync::Barrier::new(64));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let arrived = arrived.clone();
            tokio::spawn(async move {
                let bytes = script::read_request(&mut stream).await.unwrap();
                let start = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
                let body = serde_json::from_slice(&bytes[start..]).unwrap();
                arrived.wait().await;
                let answer = answer(201, &charged(&Seen { connection: 0, bytes, body }));
                tokio::io::AsyncWriteExt::write_all(&mut stream, &answer).await.unwrap();
            });
        }
    });
    let text = script::ALFA.replace("in_flight_max = 32", "in_flight_max = 64");
    let rig = Rig::new(&definition("alfa", &text), &base);
    for n in 1..=64 {
        rig.queue.send(attempt(n)).await.unwrap();
    }
    let replies = rig.finish().await;
    assert!(replies.values().all(|replies| replies[0].outcome == CHARGED) && replies.len() == 64);
}

#[tokio::test]
async fn never_more_at_a_time_than_this_process_may() {
    let server = Server::start(|_| Do::Hang).await;
    let rig = Rig::new(&alfa(8), &server.base());
    rig.adapter.limit_in_flight(3);
    for n in 1..=8 {
        rig.queue.send(attempt(n)).await.unwrap();
    }
    for allowed in [3, 5] {
        rig.adapter.limit_in_flight(allowed);
        until("all that may be sent", || server.seen().len() == allowed as usize).await;
        // Every line has had its turn; without the cap all eight were on their way by now.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!((server.seen().len(), rig.adapter.link_state().in_flight), (allowed as usize, allowed));
    }
}

#[tokio::test]
async fn a_connection_that_died_while_idle_is_not_used_again() {
    let server = Server::start(|request| Do::SendAndClose(answer(201, &charged(request)))).await;
    let rig = Rig::new(&alfa(1), &server.base());
    for n in 1..=3 {
        assert_eq!(rig.charge(n).await.outcome, CHARGED);
        until("the end of the connection", || rig.adapter.link_state().connections == 0).await;
    }
    assert_eq!((server.seen().len(), server.accepted()), (3, 3));
}

#[tokio::test]
async fn an_idle_connection_is_closed_before_the_carrier_does_it() {
    let server = Server::start(|request| Do::Send(answer(201, &charged(request)))).await;
    let text = script::ALFA.replace("idle_timeout = \"30s\"", "idle_timeout = \"1s\"");
    let rig = Rig::new(&definition("alfa", &text), &server.base());
    assert_eq!(rig.charge(1).await.outcome, CHARGED);
    assert_eq!(rig.adapter.link_state().connections, 1);
    until("the end of the connection", || rig.adapter.link_state().connections == 0).await;
    assert_eq!(rig.charge(2).await.outcome, CHARGED);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_never_taken_for_the_next_one() {
    let server = Server::start(|request| {
        let mut bytes = answer(201, &charged(request));
        if request.connection == 0 {
            bytes.extend(answer(403, r#"{"code":"CARRIER_BILLING.PAYMENT_DENIED","message":"line barred"}"#));
        }
        Do::Send(bytes)
    })
    .await;
    let rig = Rig::new(&alfa(1), &server.base());
    rig.queue.send(attempt(1)).await.unwrap();
    rig.queue.send(attempt(2)).await.unwrap();
    assert_eq!(rig.reply(1).await.outcome, CHARGED);
    assert_eq!(rig.reply(2).await.outcome, CHARGED);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let server = Server::start(|request| {
        let text = String::from_utf8(answer(201, &charged(request))).unwrap();
        Do::Send(text.replacen("\r\n", "\r\nconnection: close\r\n", 1).into_bytes())
    })
    .await;
    let rig = Rig::new(&alfa(1), &server.base());
    rig.queue.send(attempt(1)).await.unwrap();
    rig.queue.send(attempt(2)).await.unwrap();
    assert_eq!((rig.reply(1).await.outcome, rig.reply(2).await.outcome), (CHARGED, CHARGED));
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_panic_costs_one_attempt_and_not_the_line() {
    let server = Server::start(|request| Do::Send(answer(201, &charged(request)))).await;
    let rig = Rig::guarded(&alfa(1), &server.base(), |attempt| {
        assert_ne!(attempt.ticket, 2, "a planted fault");
        true
    });
    assert_eq!(rig.charge(1).await.outcome, CHARGED);
    let reply = rig.charge(2).await;
    assert_eq!((reply.outcome, reply.alert), (unknown(Doubt::NoReply), Some(Alert::SenderDied)));
    assert_eq!(rig.charge(3).await.outcome, CHARGED);
    assert_eq!(rig.adapter.link_state().in_flight, 0);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn dropping_the_run_cuts_no_exchange_short() {
    let server = Server::start(|request| Do::Send(answer(201, &charged(request)))).await;
    let rig = Rig::new(&alfa(2), &server.base());
    assert_eq!(rig.charge(1).await.outcome, CHARGED);
    rig.running.abort();
    assert_eq!(rig.charge(2).await.outcome, CHARGED);
}

#[tokio::test]
async fn credentials_reach_the_carrier_and_nobody_else() {
    let server = Server::start(|request| {
        let asked = &request.body;
        // A careless carrier that repeats the key.
        Do::Send(answer(
            200,
            &serde_json::json!({"state": "CHARGED", "id": "c-1", "key": asked["key"], "price": asked["price"],
                "debug": "key stand-in-for-a-secret accepted"})
            .to_string(),
        ))
    })
    .await;
    let rig = Rig::new(&definition("hoshi", HOSHI), &server.base());
    let reply = rig.send(attempt_of(1, 120, "JPY", "81900000001")).await;
    assert_eq!(reply.outcome, Outcome::Charged { amount_minor: 120 });
    let sent = String::from_utf8(server.seen()[0].bytes.clone()).unwrap();
    assert!(sent.contains("\r\nx-api-key: stand-in-for-a-secret\r\n"), "{sent}");
    let kept = String::from_utf8([reply.request.clone(), reply.response].concat()).unwrap();
    assert!(!kept.contains("stand-in"), "{kept}");
    assert_eq!(reply.request.len(), sent.len());
    assert!(kept.contains("\r\nx-api-key: *********************\r\n"), "{kept}");
}
