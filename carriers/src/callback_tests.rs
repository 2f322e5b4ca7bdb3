#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::adapter::ExchangeKind;
use crate::secrets::{SecretError, Secrets};
use crate::test_support::attempt;
use billing_core::book::reader::{Problems, Source};
use billing_core::outcome::{Doubt, Op, Refusal};
use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

const HOSHI: &str = include_str!("../../config/carriers/hoshi.toml");
const KEY: &str = "the key of the tests";

struct Fixed;

impl Secrets for Fixed {
    fn lookup(&self, _: &str) -> Result<Zeroizing<String>, SecretError> {
        Ok(Zeroizing::new(KEY.to_owned()))
    }
}

fn hoshi(text: &str) -> CarrierDefinition {
    let mut problems = Problems::default();
    let source = Source { file: "hoshi.toml".to_owned(), text: text.to_owned() };
    let read = CarrierDefinition::read(&source, &Fixed, &mut problems);
    read.expect("the shipped definition is sound")
}

fn asked() -> Attempt {
    Attempt { carrier_txn_id: Some("c-1".into()), ..attempt(120, "JPY", "819000000001") }
}

fn message(event: &str) -> String {
    let key = asked().our_ref;
    format!(
        r#"{{"event":"charge.{event}","id":"m-7","charge":"c-1","key":"{key}","msisdn":"819000000001","amount":"120","currency":"JPY","reason":"no_funds"}}"#
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn signed(body: &[u8], key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = format!("sha256={}", hex(&hmac_sha256(key.as_bytes(), body)));
    headers.insert(HeaderName::from_static("x-hoshi-signature"), HeaderValue::from_str(&value).unwrap());
    headers
}

fn told(body: &str) -> Result<Callback, CallbackError> {
    read_callback(&hoshi(HOSHI), &signed(body.as_bytes(), KEY), body.as_bytes())
}

#[test]
fn hmac_of_rfc_4231() {
    let cases: [(&[u8], &[u8], &str); 3] = [
        (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ];
    for (key, message, expected) in cases {
        assert_eq!(hex(&hmac_sha256(key, message)), expected);
    }
}

#[test]
fn a_signed_message_says_what_became_of_an_attempt() {
    let callback = told(&message("charged")).unwrap();
    let expected = Callback {
        authenticated: true,
        our_ref: Some(asked().our_ref),
        carrier_txn_id: Some("c-1".into()),
        amount_minor: Some(120),
        currency: Some("JPY".into()),
        msisdn: Some("819000000001".into()),
        result: Outcome::Charged { amount_minor: 120 },
        carrier_code: Some("no_funds".into()),
        callback_id: "m-7".into(),
    };
    assert_eq!(callback, expected);
    assert_eq!(callback.held_against(&asked(), true), Ok(Outcome::Charged { amount_minor: 120 }));
    let refused = told(&message("refused")).unwrap();
    assert_eq!(refused.held_against(&asked(), true), Ok(Outcome::Declined(Refusal::NoFunds)));
    assert_eq!(told(&message("parked")).unwrap().result, Outcome::Unknown(Doubt::Unlisted));
    // Two messages about the same fact have one id, also where the carrier gives none.
    let unnamed = told(&message("charged").replace("\"id\":\"m-7\",", "")).unwrap();
    assert_eq!(*unnamed.callback_id, *format!("{}:charged", asked().our_ref));
}

#[test]
fn a_kept_message_is_read_as_it_was_when_it_came() {
    let (definition, body) = (hoshi(HOSHI), message("charged"));
    let kept = read_kept_callback(&definition, true, body.as_bytes()).unwrap();
    assert_eq!(kept, told(&body).unwrap());
    let hint = read_kept_callback(&definition, false, body.as_bytes()).unwrap();
    assert!(!hint.authenticated, "what was not known when it came is not known later");
    assert_eq!(read_kept_callback(&definition, true, b"{}"), Err(CallbackError::NotRecognised));
    assert_eq!(definition.signs_callbacks(), Some(true));
}

#[test]
fn forged_messages_are_not_read() {
    let definition = hoshi(HOSHI);
    let body = message("charged");
    let read = |headers: &HeaderMap, body: &str| read_callback(&definition, headers, body.as_bytes());
    let good = signed(body.as_bytes(), KEY);
    assert!(read(&good, &body).unwrap().authenticated);
    let mut twice = good.clone();
    twice.append("x-hoshi-signature", HeaderValue::from_static("sha256=00"));
    let mut bare = HeaderMap::new();
    bare.insert(
        "x-hoshi-signature",
        HeaderValue::from_str(&hex(&hmac_sha256(KEY.as_bytes(), body.as_bytes()))).unwrap(),
    );
    for headers in [HeaderMap::new(), signed(body.as_bytes(), "another key"), twice, bare] {
        assert_eq!(read(&headers, &body), Err(CallbackError::NotAuthentic));
    }
    // Every bit of the body counts.
    for at in 0..body.len() {
        let mut changed = body.clone().into_bytes();
        changed[at] ^= 1;
        assert_eq!(read_callback(&definition, &good, &changed), Err(CallbackError::NotAuthentic));
    }
    let long = "x".repeat(64 * 1024 + 1);
    let too_large = Err(CallbackError::TooLarge { found: 64 * 1024 + 1, max: 64 * 1024 });
    assert_eq!(read(&signed(long.as_bytes(), KEY), &long), too_large);
}

#[test]
fn what_does_not_agree_with_the_attempt_is_not_believed() {
    let held = |from: &str, to: &str| {
        let body = message("charged");
        assert!(body.contains(from), "{from}");
        told(&body.replace(from, to)).and_then(|callback| {
            callback.held_against(&asked(), true).map_err(|_| CallbackError::NotRecognised)
        })
    };
    let callback = |from: &str, to: &str| {
        told(&message("charged").replace(from, to)).unwrap().held_against(&asked(), true).unwrap_err()
    };
    assert_eq!(callback("\"120\"", "\"121\""), Alert::WrongAmount);
    assert_eq!(callback("JPY", "EUR"), Alert::WrongCurrency);
    assert_eq!(callback("819000000001", "819000000002"), Alert::WrongSubscriber);
    assert_eq!(callback("\"c-1\"", "\"c-2\""), Alert::WrongKey);
    assert_eq!(held("\"120\"", "\"60\""), Ok(Outcome::Partial { amount_minor: 60 }));
    let partial = told(&message("charged").replace("\"120\"", "\"60\"")).unwrap();
    assert_eq!(partial.held_against(&asked(), false), Err(Alert::WrongAmount));
    for none in ["null", "\"0\"", "\"-120\"", "\"1.5\""] {
        assert_eq!(held("\"120\"", none), Err(CallbackError::NoAmount), "{none}");
    }
    let other = Attempt { op: Op::Refund, ..asked() };
    assert_eq!(told(&message("charged")).unwrap().held_against(&other, true), Err(Alert::WrongOperation));
    let key = asked().our_ref.to_string();
    assert_eq!(held(&key, "not-a-key"), Err(CallbackError::NoKey));
    // Without our key the carrier's own has to be the one that it gave us.
    let by_txn = told(&message("charged").replace(&format!("\"key\":\"{key}\","), "")).unwrap();
    assert!(by_txn.held_against(&asked(), true).is_ok());
    let unnamed = Attempt { carrier_txn_id: None, kind: ExchangeKind::Send, ..asked() };
    assert_eq!(by_txn.held_against(&unnamed, true), Err(Alert::WrongKey));
}

#[test]
fn other_messages_are_told_apart() {
    assert_eq!(told("{}"), Err(CallbackError::NotRecognised));
    assert_eq!(told("<xml/>"), Err(CallbackError::NotJson));
    assert_eq!(told(r#"{"event":"charge.charged"}"#), Err(CallbackError::NoKey));
    assert_eq!(hoshi(HOSHI).acknowledgement(), Some(&Acknowledgement { status: 204, body: "".into() }));
}

#[test]
fn an_unsigned_message_is_a_hint() {
    let start = HOSHI.find("auth = { method = \"hmac").unwrap();
    let end = start + HOSHI[start..].find('\n').unwrap();
    let unsigned = format!("{}auth = {{ method = \"none\" }}{}", &HOSHI[..start], &HOSHI[end..]);
    let mut problems = Problems::default();
    let source = Source { file: "hoshi.toml".to_owned(), text: unsigned.clone() };
    assert!(CarrierDefinition::read(&source, &Fixed, &mut problems).is_none());
    let text = problems.to_string();
    assert!(
        text.contains("`callback.rules[0].then` is \"charged\"; one of \"pending\", \"unknown\""),
        "{text}"
    );
    assert!(
        text.contains("[proof.callback] without a signed [callback]; only a callback whose sender"),
        "{text}"
    );
}
