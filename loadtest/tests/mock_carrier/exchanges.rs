//! The shipped carrier files against the mock: every operation and question, over a real socket.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use billing_core::book::reader::{Problems, Source};
use billing_core::ids::{AttemptId, ChargeId, OurRef, RefSeed, SubscriptionId};
use billing_core::money::{Currency, Money};
use billing_core::outcome::{Doubt, Op, Outcome, Refusal};
use billing_core::period::Period;
use carriers::{
    Adapter, Attempt, Balance, CallbackError, CarrierDefinition, ExchangeKind, Finding, HttpAdapter,
    Inquired, Msisdn, OutcomeSink, Reply, SendGuard, StandInSecrets, read_callback,
};
use serde_json::json;

use crate::support::{Mock, PATIENCE, eventually};

/// What [`StandInSecrets`] gives for every name.
const SECRET: &str = "stand-in-for-a-secret";

struct Always;

impl SendGuard for Always {
    fn may_send(&self, _: &Attempt) -> bool {
        true
    }
}

#[derive(Default)]
struct Replies(Mutex<HashMap<u64, Reply>>);

impl OutcomeSink for Replies {
    fn deliver(&self, reply: Reply) {
        assert!(self.0.lock().unwrap().insert(reply.ticket, reply).is_none(), "one attempt, one reply");
    }
}

struct Rig {
    definition: CarrierDefinition,
    mock: Mock,
    queue: async_channel::Sender<Attempt>,
    replies: Arc<Replies>,
    runtime: tokio::runtime::Runtime,
    last: std::cell::Cell<u64>,
    line: &'static str,
}

impl Rig {
    fn new(name: &str, carrier: &str, more: &[&str]) -> Self {
        let (dialect, currency, line) = match carrier {
            "alfa" => ("camara", "EUR", "34600000001"),
            "medina" => ("flat", "TND", "21620000001"),
            _ => ("priced", "JPY", "819000000001"),
        };
        let mock = Mock::start(name, dialect, currency, more);
        let path = format!("{}/../config/carriers/{carrier}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path)
            .unwrap()
            .replace("reply_timeout = \"8s\"", "reply_timeout = \"300ms\"");
        let mut problems = Problems::default();
        let source = Source { file: format!("{carrier}.toml"), text };
        let definition = CarrierDefinition::read(&source, &StandInSecrets, &mut problems)
            .unwrap_or_else(|| panic!("{problems}"));
        let adapter = HttpAdapter::new(&definition, Some(&format!("http://{}", mock.address))).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (queue, receiver) = async_channel::bounded(8);
        let replies = Arc::new(Replies::default());
        let _inside = runtime.enter();
        runtime.spawn(Arc::new(adapter).run(receiver, Arc::new(Always), replies.clone()));
        Self { definition, mock, queue, replies, runtime, last: 0.into(), line }
    }

    /// An attempt of the one charge of these tests; its number makes its key.
    fn attempt(&self, op: Op, no: i16, minor: i64) -> Attempt {
        let period = Period::starting(jiff::civil::date(2026, 11, 21), 360).unwrap();
        let key = |no| OurRef::new(RefSeed(77), period, no).unwrap();
        Attempt {
            ticket: 0,
            id: AttemptId {
                charge: ChargeId { subscription: SubscriptionId(1 << 44 | 1), period },
                attempt_no: no,
            },
            our_ref: key(no),
            op,
            msisdn: Msisdn::parse(self.line).unwrap(),
            amount: Money::new(
                minor,
                Currency::from_code(self.definition.summary().currency.code()).unwrap(),
            ),
            text: "Manga".into(),
            intent_at: jiff::Timestamp::from_second(1_795_255_200).unwrap(),
            kind: ExchangeKind::Send,
            carrier_txn_id: None,
            parent_ref: None,
            parent_txn_id: None,
        }
    }

    fn send(&self, attempt: &Attempt) -> Reply {
        let ticket = self.last.get() + 1;
        self.last.set(ticket);
        self.runtime.block_on(self.queue.send(Attempt { ticket, ..attempt.clone() })).unwrap();
        let mut reply = None;
        eventually("a reply", || {
            reply = self.replies.0.lock().unwrap().remove(&ticket);
            reply.is_some()
        });
        reply.unwrap()
    }

    fn outcome(&self, attempt: &Attempt) -> Outcome {
        self.send(attempt).outcome
    }

    fn inquired(&self, attempt: &Attempt) -> Inquired {
        let asked = Attempt { kind: ExchangeKind::Inquiry, ..attempt.clone() };
        match self.send(&asked).finding {
            Some(Finding::Inquiry(inquired)) => inquired,
            other => panic!("{other:?}"),
        }
    }

    fn balance(&self, attempt: &Attempt) -> Option<Finding> {
        self.send(&Attempt { kind: ExchangeKind::Balance, ..attempt.clone() }).finding
    }

    fn after(&self, parent: &Attempt, txn_id: Option<Box<str>>, op: Op, no: i16, minor: i64) -> Attempt {
        let mut attempt = self.attempt(op, no, minor);
        (attempt.parent_ref, attempt.parent_txn_id) = (Some(parent.our_ref), txn_id);
        attempt
    }
}

#[test]
fn refunds_in_parts_never_exceed_what_was_charged() {
    let mut rig = Rig::new("refund", "alfa", &[]);
    let charge = rig.attempt(Op::Charge, 1, 199);
    let charged = rig.send(&charge);
    assert_eq!(charged.outcome, Outcome::Charged { amount_minor: 199 });
    let txn = charged.carrier_txn_id;
    let first = rig.after(&charge, txn.clone(), Op::Refund, 2, 100);
    assert_eq!(rig.outcome(&first), Outcome::Refunded { amount_minor: 100 });
    // The same key again moves nothing more.
    let again = Attempt { kind: ExchangeKind::Resend, ..first.clone() };
    assert_eq!(rig.outcome(&again), Outcome::Refunded { amount_minor: 100 });
    let limit = Outcome::Declined(Refusal::Limit(billing_core::outcome::LimitKind::PerCharge));
    assert_eq!(rig.outcome(&rig.after(&charge, txn.clone(), Op::Refund, 3, 100)), limit);
    assert_eq!(
        rig.outcome(&rig.after(&charge, txn.clone(), Op::Refund, 4, 99)),
        Outcome::Refunded { amount_minor: 99 }
    );
    let wrong_id = rig.after(&charge, Some("p-000000000099".into()), Op::Refund, 5, 1);
    assert_eq!(rig.outcome(&wrong_id), Outcome::Declined(Refusal::NotAllowed));
    // Asked by its key, each says what became of it; also after a crash of the carrier.
    for _ in 0..2 {
        assert_eq!(rig.inquired(&charge), Inquired::Found(Outcome::Charged { amount_minor: 199 }));
        assert_eq!(rig.inquired(&first), Inquired::Found(Outcome::Refunded { amount_minor: 100 }));
        assert_eq!(rig.inquired(&rig.attempt(Op::Charge, 9, 199)), Inquired::NotFound);
        let ledger = std::fs::read(&rig.mock.ledger).unwrap();
        let copy = crate::support::fresh_ledger("refund-again");
        std::fs::write(&copy, ledger).unwrap();
        let next = Mock::start_on(copy, "camara", "EUR", &[]);
        let adapter = HttpAdapter::new(&rig.definition, Some(&format!("http://{}", next.address))).unwrap();
        let (queue, receiver) = async_channel::bounded(8);
        let _inside = rig.runtime.enter();
        rig.runtime.spawn(Arc::new(adapter).run(receiver, Arc::new(Always), rig.replies.clone()));
        drop(_inside);
        (rig.mock, rig.queue) = (next, queue);
    }
    // Control totals of the file, and what stands in it.
    let path = rig.mock.ledger.with_extension("csv");
    let wanted =
        json!({ "path": path, "zone": "Europe/Madrid", "until_us": 4_000_000_000_000_000_u64 }).to_string();
    let answer = rig.mock.connect().send("POST", "/_mock/reconciliation", "", wanted.as_bytes()).unwrap();
    assert_eq!(answer.json(), json!({"count": 3, "collected_minor": 199, "given_back_minor": 199}));
    let file = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = file.lines().collect();
    assert_eq!((lines.len(), lines[4]), (5, "T,EUR,3,398"));
    assert!(lines[0].starts_with("H,1970-01-01T01:00:00,20"), "{}", lines[0]);
    let first =
        format!("D,\"{}\",charge,p-000000000001,199,EUR,{},20", charge.our_ref, charge.msisdn.digits());
    assert!(lines[1].starts_with(&first), "{} does not begin with {first}", lines[1]);
}

#[test]
fn two_phases_collect_once_and_an_expired_reservation_says_so() {
    let rig = Rig::new("phases", "hoshi", &[]);
    let poor = json!({"balance": {"classes": [{"share_ppm": 0, "min_minor": 300, "max_minor": 300}]}});
    rig.mock.behave(&poor.to_string());
    let reserve = rig.attempt(Op::Reserve, 1, 200);
    assert_eq!(rig.outcome(&reserve), Outcome::Reserved);
    assert_eq!(rig.inquired(&reserve), Inquired::Found(Outcome::Reserved));
    // What is set aside cannot be spent.
    assert_eq!(rig.outcome(&rig.attempt(Op::Reserve, 2, 200)), Outcome::Declined(Refusal::NoFunds));
    let confirm = rig.after(&reserve, None, Op::Confirm, 3, 200);
    assert_eq!(rig.outcome(&confirm), Outcome::Charged { amount_minor: 200 });
    assert_eq!(
        rig.outcome(&rig.after(&reserve, None, Op::Cancel, 4, 200)),
        Outcome::Declined(Refusal::NotAllowed)
    );
    assert_eq!(
        rig.outcome(&rig.after(&reserve, None, Op::Confirm, 5, 200)),
        Outcome::Declined(Refusal::NotAllowed)
    );
    let refund = rig.after(&confirm, None, Op::Refund, 6, 200);
    assert_eq!(rig.outcome(&refund), Outcome::Refunded { amount_minor: 200 });
    let second = rig.attempt(Op::Reserve, 7, 300);
    assert_eq!(rig.outcome(&second), Outcome::Reserved);
    assert_eq!(rig.outcome(&rig.after(&second, None, Op::Cancel, 8, 300)), Outcome::Released);
    rig.mock.behave(r#"{"reservation_ms":0}"#);
    let third = rig.attempt(Op::Reserve, 9, 300);
    assert_eq!(rig.outcome(&third), Outcome::Reserved);
    let late = rig.after(&third, None, Op::Confirm, 10, 300);
    assert_eq!(rig.outcome(&late), Outcome::Declined(Refusal::Expired));
    assert_eq!(rig.inquired(&late), Inquired::Found(Outcome::Declined(Refusal::Expired)));
    // The line has its money again, so another one fits.
    assert_eq!(rig.outcome(&rig.attempt(Op::Reserve, 11, 300)), Outcome::Reserved);
    let lines = rig.mock.lines();
    let ops: Vec<&str> = lines.iter().map(|line| line["op"].as_str().unwrap()).collect();
    assert_eq!(&ops[..4], ["reserve", "reserve", "confirm", "cancel"]);
    assert_eq!(lines[2]["parent"], reserve.our_ref.to_string());
}

#[test]
fn a_lost_answer_is_found_by_asking_when_the_carrier_can_see_it() {
    let rig = Rig::new("lost", "alfa", &[]);
    rig.mock.behave(r#"{"silent_applied_ppm":1000000,"visible_after_ms":3600000}"#);
    let charge = rig.attempt(Op::Charge, 1, 199);
    assert_eq!(rig.outcome(&charge), Outcome::Unknown(Doubt::NoReply));
    // Applied, and yet not to be seen: an early "not found" proves nothing.
    assert_eq!(rig.mock.stats()["applied"], 1);
    assert_eq!(rig.inquired(&charge), Inquired::NotFound);
    rig.mock.behave(r#"{"visible_after_ms":0,"working_ms":3600000}"#);
    assert_eq!(rig.inquired(&charge), Inquired::StillWorking);
    rig.mock.behave(r#"{"working_ms":0}"#);
    assert_eq!(rig.inquired(&charge), Inquired::Found(Outcome::Charged { amount_minor: 199 }));
    // The same request again gets the first answer, and moves nothing.
    let again = Attempt { kind: ExchangeKind::Resend, ..charge.clone() };
    assert_eq!(rig.outcome(&again), Outcome::Charged { amount_minor: 199 });
    assert_eq!(rig.mock.stats()["applied"], 1);
    rig.mock.behave(r#"{"down":true}"#);
    let busy = rig.outcome(&again);
    assert_eq!(busy.moved(), billing_core::outcome::Moved::Unknown, "{busy:?}");
}

#[test]
fn balances_advise_and_a_partial_takes_what_is_there() {
    let rig = Rig::new("balance", "medina", &[]);
    let poor = json!({"balance": {"classes": [{"share_ppm": 0, "min_minor": 800, "max_minor": 800}]}});
    rig.mock.behave(&poor.to_string());
    let charge = rig.attempt(Op::Charge, 1, 1_500);
    assert_eq!(rig.balance(&charge), Some(Finding::Balance(Balance::Amount(800))));
    assert_eq!(rig.outcome(&charge), Outcome::Declined(Refusal::NoFunds));
    // This carrier declares no partials: a smaller amount is a contradiction, whatever it took.
    rig.mock.behave(r#"{"partial_min_minor":100}"#);
    assert_eq!(rig.outcome(&rig.attempt(Op::Charge, 2, 1_500)), Outcome::Unknown(Doubt::Contradictory));
    let line = rig.mock.last_line();
    assert_eq!(
        (&line["amount"], &line["asked"], &line["status"]),
        (&json!(800), &json!(1_500), &json!("applied"))
    );
    assert_eq!(rig.balance(&charge), Some(Finding::Balance(Balance::Amount(0))));
    rig.mock.behave(r#"{"balance_yes_no":true}"#);
    assert_eq!(rig.balance(&charge), Some(Finding::Balance(Balance::Unknown)));

    let rig = Rig::new("partial", "hoshi", &[]);
    let poor = json!({"balance": {"classes": [{"share_ppm": 0, "min_minor": 80, "max_minor": 80}]}, "partial_min_minor": 50});
    rig.mock.behave(&poor.to_string());
    let charge = rig.attempt(Op::Charge, 1, 120);
    assert_eq!(rig.outcome(&charge), Outcome::Partial { amount_minor: 80 });
    assert_eq!(rig.outcome(&charge), Outcome::Partial { amount_minor: 80 });
    assert_eq!(rig.inquired(&charge), Inquired::Found(Outcome::Partial { amount_minor: 80 }));
    let limit = Outcome::Declined(Refusal::Limit(billing_core::outcome::LimitKind::PerCharge));
    assert_eq!(rig.outcome(&rig.after(&charge, None, Op::Refund, 2, 81)), limit);
}

/// Takes `count` messages and acknowledges each.
fn messages(listener: &TcpListener, count: usize) -> Vec<(http::HeaderMap, Vec<u8>)> {
    (0..count)
        .map(|_| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            let mut part = [0; 4_096];
            let body_at = loop {
                let read = stream.read(&mut part).unwrap();
                assert!(read > 0, "a whole message");
                bytes.extend_from_slice(&part[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if let Some(end) = text.find("\r\n\r\n")
                    && text.ends_with('}')
                {
                    break end + 4;
                }
            };
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            let mut headers = http::HeaderMap::new();
            for line in String::from_utf8_lossy(&bytes[..body_at]).lines().skip(1) {
                if let Some((name, value)) = line.split_once(": ") {
                    let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
                    headers.insert(name, value.parse().unwrap());
                }
            }
            (headers, bytes[body_at..].to_vec())
        })
        .collect()
}

#[test]
fn callbacks_are_believed_only_when_signed_and_about_the_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/callbacks/hoshi", listener.local_addr().unwrap());
    let rig = Rig::new("callback", "hoshi", &["--callback-url", &url, "--callback-secret", SECRET]);
    rig.mock.behave(
        r#"{"pending_ppm":1000000,"callback_delay_ms":20,"callback_twice_ppm":1000000,"callback_forged_ppm":1000000,"callback_contrary_ppm":1000000}"#,
    );
    let charge = rig.attempt(Op::Charge, 1, 120);
    let accepted = rig.send(&charge);
    assert_eq!(accepted.outcome, Outcome::Pending);
    let known = Attempt { carrier_txn_id: accepted.carrier_txn_id, ..charge.clone() };
    let got = messages(&listener, 4);
    let read: Vec<_> =
        got.iter().map(|(headers, body)| read_callback(&rig.definition, headers, body)).collect();
    assert_eq!(read[0], Err(CallbackError::NotAuthentic), "forged");
    let held = |at: usize| read[at].as_ref().unwrap().held_against(&known, true);
    assert_eq!(held(1), Ok(Outcome::Charged { amount_minor: 120 }));
    assert_eq!(read[1], read[2], "sent twice");
    assert_eq!(held(3), Ok(Outcome::Declined(Refusal::NoFunds)), "contrary, and signed: a case for people");
    assert_ne!(read[1].as_ref().unwrap().callback_id, read[3].as_ref().unwrap().callback_id);
    let other = rig.attempt(Op::Charge, 2, 120);
    assert!(read[1].as_ref().unwrap().held_against(&other, true).is_err());

    // Before the answer that says "accepted".
    rig.mock.behave(r#"{"callback_early_ppm":1000000,"callback_forged_ppm":0,"callback_twice_ppm":0,"callback_contrary_ppm":0}"#);
    let early = rig.attempt(Op::Charge, 3, 120);
    let waiting = std::thread::scope(|scope| {
        let taken = scope.spawn(|| messages(&listener, 1));
        let reply = rig.send(&early);
        (taken.join().unwrap(), reply.outcome)
    });
    assert_eq!(waiting.1, Outcome::Pending);
    let (headers, body) = &waiting.0[0];
    let callback = read_callback(&rig.definition, headers, body).unwrap();
    assert_eq!(callback.held_against(&early, true), Ok(Outcome::Charged { amount_minor: 120 }));

    // Never sent: only asking helps.
    rig.mock.behave(r#"{"callback_lost_ppm":1000000,"callback_early_ppm":0}"#);
    let lost = rig.attempt(Op::Charge, 4, 120);
    assert_eq!(rig.outcome(&lost), Outcome::Pending);
    assert_eq!(rig.inquired(&lost), Inquired::Found(Outcome::Charged { amount_minor: 120 }));
    // The next message that comes is about the next charge.
    rig.mock.behave(r#"{"callback_lost_ppm":0}"#);
    let next = rig.attempt(Op::Charge, 5, 120);
    assert_eq!(rig.outcome(&next), Outcome::Pending);
    let (headers, body) = &messages(&listener, 1)[0];
    let callback = read_callback(&rig.definition, headers, body).unwrap();
    assert_eq!(callback.our_ref, Some(next.our_ref));
}
