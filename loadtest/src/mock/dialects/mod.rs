//! The wire formats: reading a charge request, writing an answer.

mod camara;
mod flat;
mod further;
mod priced;

pub(super) use further::{Follow, Said};

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use clap::ValueEnum;
use http::StatusCode;
use serde::Serialize;

use super::balances::Line;
use super::faults::GarbageKind;
use super::json::BadJson;
use super::money::{exponent_of, minor_of, push_padded};

const KEY_MAX: usize = 128;

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// `POST /payments`, CAMARA CarrierBilling: decimal amounts as JSON numbers, meaning in the HTTP status.
    Camara,
    /// `POST /v1/charge`: minor units, always HTTP 200, meaning in the body.
    Flat,
    /// `POST /billing/charges`: an API key, decimal amounts as strings.
    Priced,
}

/// What the carrier says about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Money moved. `said_minor` is the amount named in the answer.
    Charged { txn: u64, said_minor: u64 },
    /// Accepted; how it was decided comes as a callback.
    Pending { txn: u64 },
    /// The carrier decided against it.
    Refused(Refusal),
    /// The key was decided before; the carrier does not say how.
    Duplicate,
    /// The key was decided before with other money fields.
    KeyReused,
    /// Too fast; not processed.
    Throttled,
    /// Busy or down; not processed.
    Busy,
    /// The request is wrong; the word says where.
    BadRequest(&'static str),
    /// The `x-api-key` header is missing or wrong.
    BadApiKey,
}

/// Why a carrier decides against a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NoFunds,
    Barred,
    Unknown,
    Limit,
}

impl Refusal {
    pub(super) const ALL: [Self; 4] = [Self::NoFunds, Self::Barred, Self::Unknown, Self::Limit];

    /// The word in the ledger.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NoFunds => "no_funds",
            Self::Barred => "barred",
            Self::Unknown => "unknown",
            Self::Limit => "limit",
        }
    }
}

/// A charge request as it was understood. With a flaw, the other fields hold what could be read.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// Empty when it cannot be read.
    pub(super) key: Cow<'a, str>,
    /// Digits without a plus sign; as received when they are not digits.
    pub(super) msisdn: Cow<'a, str>,
    pub(super) line: Option<Line>,
    pub(super) amount_minor: Option<u64>,
    pub(super) currency: Cow<'a, str>,
    pub(super) exponent: u32,
    pub(super) text: Cow<'a, str>,
    /// The first thing wrong with the request.
    pub(super) flaw: Option<&'static str>,
}

/// The fields of a request, before anybody looked at their values.
#[derive(Default)]
struct Fields<'a> {
    key: Option<Cow<'a, str>>,
    msisdn: Option<Cow<'a, str>>,
    amount: Option<Cow<'a, str>>,
    currency: Option<Cow<'a, str>>,
    text: Option<Cow<'a, str>>,
    /// A field that the dialect wants and the mock has no use for is missing.
    lacks: Option<&'static str>,
}

/// How the dialect writes an amount.
enum Unit {
    Major,
    Minor,
}

impl Dialect {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Camara => "/payments",
            Self::Flat => "/v1/charge",
            Self::Priced => "/billing/charges",
        }
    }

    /// Understands a body. Never fails: what is wrong is in `flaw`.
    pub(super) fn read(self, body: &[u8]) -> Asked<'_> {
        match self {
            Self::Camara => camara::read(body),
            Self::Flat => flat::read(body),
            Self::Priced => priced::read(body),
        }
    }

    /// Writes the body of an answer and gives its status.
    pub(super) fn write(self, out: &mut BytesMut, answer: Answer, asked: &Asked<'_>) -> StatusCode {
        match self {
            Self::Camara => camara::write(out, answer, asked),
            Self::Flat => flat::write(out, answer, asked),
            Self::Priced => priced::write(out, answer, asked),
        }
    }

    /// Writes an unreadable answer in the place of `answer`. [`GarbageKind::Huge`] writes only its beginning.
    pub(super) fn write_garbage(
        self,
        out: &mut BytesMut,
        kind: GarbageKind,
        answer: Answer,
        asked: &Asked<'_>,
    ) -> StatusCode {
        let charged = matches!(answer, Answer::Charged { .. });
        match kind {
            GarbageKind::Truncated => {
                let status = self.write(out, answer, asked);
                out.truncate(out.len() / 2);
                status
            }
            GarbageKind::Empty => {
                let status = self.write(out, answer, asked);
                out.clear();
                status
            }
            GarbageKind::UnknownCode => {
                out.put_slice(match self {
                    Self::Camara => b"{\"paymentId\":\"p-\",\"paymentStatus\":\"parked_e77\"}",
                    Self::Flat => b"{\"result\":\"ERR\",\"code\":\"E77\"}",
                    Self::Priced => b"{\"state\":\"E77\"}",
                });
                StatusCode::OK
            }
            GarbageKind::WrongKey if charged => {
                let other = Asked {
                    key: Cow::Owned(format!("not-{}", asked.key)),
                    msisdn: Cow::Borrowed(&asked.msisdn),
                    currency: Cow::Borrowed(&asked.currency),
                    text: Cow::Borrowed(""),
                    ..*asked
                };
                self.write(out, answer, &other)
            }
            // A refusal names no key, so a wrong key cannot make it unreadable.
            GarbageKind::Html | GarbageKind::WrongKey => {
                out.put_slice(b"<!DOCTYPE html><html><body><h1>It works!</h1></body></html>");
                StatusCode::OK
            }
            GarbageKind::Huge => {
                out.put_slice(b"{\"padding\":\"");
                StatusCode::OK
            }
        }
    }

    /// Writes the carrier's own reference for a charge: it follows from the ledger line, so a restart gives the same.
    pub(super) fn push_txn(self, out: &mut BytesMut, seq: u64) {
        out.put_slice(match self {
            Self::Camara => b"p-",
            Self::Flat => b"f-",
            Self::Priced => b"c-",
        });
        push_padded(out, seq, 12);
    }
}

/// Looks at the values. `read` says whether the whole body was JSON.
fn understood<'a>(fields: Fields<'a>, read: Result<(), BadJson>, plus: bool, unit: Unit) -> Asked<'a> {
    let key = fields.key.unwrap_or_default();
    let currency = fields.currency.unwrap_or_default();
    let mut msisdn = fields.msisdn.unwrap_or_default();
    let exponent = exponent_of(&currency);
    let amount_minor = match (fields.amount, &unit, exponent) {
        (Some(text), Unit::Major, Some(exponent)) => minor_of(&text, exponent),
        // A decimal point has no place in minor units, even with nothing behind it.
        (Some(text), Unit::Minor, _) if !text.contains('.') => minor_of(&text, 0),
        _ => None,
    };
    let digits = if plus { msisdn.strip_prefix('+') } else { Some(&*msisdn) };
    let line = digits.and_then(Line::parse);
    if plus && line.is_some() {
        msisdn = match msisdn {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim_start_matches('+')),
            Cow::Owned(text) => Cow::Owned(text.trim_start_matches('+').to_owned()),
        };
    }
    let flaw = match () {
        () if read.is_err() => Some("json"),
        () if key.is_empty() || key.len() > KEY_MAX => Some("key"),
        () if line.is_none() => Some("msisdn"),
        () if exponent.is_none() => Some("currency"),
        () if amount_minor.is_none() => Some("amount"),
        () => fields.lacks,
    };
    let text = fields.text.unwrap_or_default();
    Asked { key, msisdn, line, amount_minor, currency, exponent: exponent.unwrap_or(0), text, flaw }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn good(dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Camara => {
                r#"{"amountTransaction":{"phoneNumber":"+34600000001","clientCorrelator":"K1","referenceCode":"K1",
                "paymentAmount":{"chargingInformation":{"amount":1.99,"currency":"EUR","description":"Ring \"tone\""}}}}"#
            }
            Dialect::Flat => {
                r#"{"msisdn":"34600000001","ref":"K1","amount":199,"currency":"EUR","text":"Ring \"tone\""}"#
            }
            Dialect::Priced => {
                r#"{"key":"K1","line":"34600000001","price":{"value":"1.99","currency":"EUR"},"label":"Ring \"tone\""}"#
            }
        }
    }

    const DIALECTS: [Dialect; 3] = [Dialect::Camara, Dialect::Flat, Dialect::Priced];

    #[test]
    fn every_dialect_reads_the_same_charge() {
        for dialect in DIALECTS {
            let asked = dialect.read(good(dialect).as_bytes());
            assert_eq!(asked.flaw, None, "{dialect:?}");
            assert_eq!((&*asked.key, &*asked.msisdn, &*asked.currency), ("K1", "34600000001", "EUR"));
            assert_eq!((asked.amount_minor, &*asked.text), (Some(199), "Ring \"tone\""));
        }
    }

    #[test]
    fn flaws_are_named_and_the_key_is_still_read() {
        for (dialect, from, to, flaw) in [
            (Dialect::Camara, "1.99", "1e999", "amount"),
            (Dialect::Camara, "1.99", "-1.99", "amount"),
            (Dialect::Camara, "1.99", "1.2345", "amount"),
            (Dialect::Camara, "1.99", "\"1.99\"", "amount"),
            (Dialect::Camara, "+34600000001", "34600000001", "msisdn"),
            (Dialect::Camara, "+34600000001", "++34600000001", "msisdn"),
            (Dialect::Camara, "\"+34600000001\"", "{\"a\":[1]}", "msisdn"),
            (Dialect::Camara, "EUR", "EURO", "currency"),
            (Dialect::Camara, "referenceCode", "reference", "reference"),
            (Dialect::Camara, "}}}}", "}}}", "json"),
            (Dialect::Camara, "}}}}", "}}}} x", "json"),
            (Dialect::Flat, "199", "1.99", "amount"),
            (Dialect::Flat, "199", "199.0", "amount"),
            (Dialect::Flat, "199", "0", "amount"),
            (Dialect::Flat, "199", "99999999999999999999", "amount"),
            (Dialect::Flat, "199", "null", "amount"),
            (Dialect::Flat, "34600000001", "346 0000001", "msisdn"),
            (Dialect::Priced, "\"1.99\"", "1.99", "amount"),
            (Dialect::Priced, "1.99", "１.99", "amount"),
        ] {
            let body = good(dialect).replacen(from, to, 1);
            let asked = dialect.read(body.as_bytes());
            assert_eq!((asked.flaw, &*asked.key), (Some(flaw), "K1"), "{body}");
        }
        for dialect in DIALECTS {
            for body in ["", "null", "[]", "{}", "{\"amountTransaction\":7}", "\u{0}"] {
                let asked = dialect.read(body.as_bytes());
                assert!(asked.flaw.is_some() && asked.key.is_empty(), "{body}");
            }
            let long = good(dialect).replace("K1", &"k".repeat(129));
            assert_eq!(dialect.read(long.as_bytes()).flaw, Some("key"));
        }
    }

    #[test]
    fn every_answer_is_json_and_the_statuses_are_the_dialects_own() {
        for dialect in DIALECTS {
            let body = good(dialect);
            let asked = dialect.read(body.as_bytes());
            let refusals = Refusal::ALL.map(Answer::Refused);
            let others = [
                Answer::Charged { txn: 7, said_minor: 199 },
                Answer::Pending { txn: 7 },
                Answer::Duplicate,
                Answer::KeyReused,
                Answer::Throttled,
                Answer::Busy,
                Answer::BadRequest("amount"),
                Answer::BadApiKey,
            ];
            let statuses: Vec<u16> = refusals
                .into_iter()
                .chain(others)
                .map(|answer| {
                    let mut out = BytesMut::new();
                    let status = dialect.write(&mut out, answer, &asked);
                    serde_json::from_slice::<serde_json::Value>(&out).unwrap();
                    status.as_u16()
                })
                .collect();
            let expected: [u16; 12] = match dialect {
                Dialect::Camara => [403, 403, 404, 422, 201, 201, 400, 409, 429, 503, 400, 401],
                Dialect::Flat => [200; 12],
                Dialect::Priced => [402, 402, 404, 402, 200, 202, 409, 409, 503, 503, 400, 401],
            };
            assert_eq!(statuses, expected, "{dialect:?}");
        }
    }

    #[test]
    fn garbage_of_every_kind_never_confirms_the_charge() {
        for dialect in DIALECTS {
            let asked = dialect.read(good(dialect).as_bytes());
            let answer = Answer::Charged { txn: 7, said_minor: 199 };
            let mut truth = BytesMut::new();
            dialect.write(&mut truth, answer, &asked);
            for kind in GarbageKind::ALL {
                let mut out = BytesMut::new();
                dialect.write_garbage(&mut out, kind, answer, &asked);
                assert_ne!(out, truth, "{kind:?}");
                let text = String::from_utf8_lossy(&out).into_owned();
                assert!(!text.contains("\"K1\"") || kind == GarbageKind::Truncated, "{text}");
                let json = serde_json::from_str::<serde_json::Value>(&text).is_ok();
                assert_eq!(json, matches!(kind, GarbageKind::UnknownCode | GarbageKind::WrongKey), "{text}");
            }
        }
    }
}
