//! A definition's own examples: each is read like a real answer, so a wrong mapping is found before any traffic.

use billing_core::book::reader::{Place as SourcePlace, Problems, Source, Table};
use billing_core::ids::{AttemptId, ChargeId, OurRef, RefSeed, SubscriptionId};
use billing_core::money::Money;
use billing_core::outcome::{Doubt, Op, Outcome};
use billing_core::period::Period;
use billing_core::zone::Zone;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::collections::BTreeMap;

use super::read::{clip, read_amount};
use super::{CarrierDefinition, For};
use crate::adapter::{Alert, Attempt, Balance, ExchangeKind, Finding, Inquired};
use crate::dialect::Operation;
use crate::dialect::json::Places;
use crate::dialect::replies::{Answer, Reading};
use crate::dialect::rules::{Subject, Verdict};
use crate::dialect::template::{BuildError, Place, Surroundings, Template};
use crate::http::{Mask, Prepared, Target};
use crate::secrets::NoSecrets;

/// Examples of one carrier.
pub(super) const EXAMPLES_MAX: usize = 500;
/// Bytes of a dictionary at most: beyond it a compressor gains nothing.
const DICTIONARY_BYTES_MAX: usize = 64 * 1024;
/// What an example's amount may be when the example names none: one major unit, as far as the limits allow.
const SAMPLE_MAJOR: i64 = 1;

const DOUBTS: [(&str, &str); 3] = [
    ("unknown:unlisted", "unknown:unlisted"),
    ("unknown:unreadable", "unknown:unreadable"),
    ("unknown:contradictory", "unknown:contradictory"),
];

/// One `[[example]]`: an answer, and what it must be read as.
pub(super) struct Example {
    what: ExampleFor,
    /// The operation that the attempt is; for an inquiry and a callback: the one that is asked or told about.
    op: Op,
    /// The balance that the answer must be read as.
    tells_minor: Option<i64>,
    status: u16,
    headers: HeaderMap,
    body: Template,
    amount_minor: i64,
    expect: &'static str,
    place: SourcePlace,
}

#[derive(Clone, Copy, PartialEq)]
enum ExampleFor {
    Spoken(For),
    Callback,
}

/// Reads the examples and holds each against the rules.
pub(super) fn read_examples(
    tables: Vec<Table<'_>>,
    source: &Source,
    definition: &CarrierDefinition,
    problems: &mut Problems,
) -> Vec<Example> {
    let examples: Vec<Example> =
        tables.into_iter().filter_map(|table| read_example(table, definition, problems)).collect();
    for example in &examples {
        let Some(attempt) = example.attempt(definition) else { continue };
        let read = match example.read(definition, &attempt) {
            Ok(read) => read,
            Err(error) => {
                let what = format!("the example's body cannot be made: {error}");
                problems.push(source.problem(example.place, what, ""));
                continue;
            }
        };
        let (word, why) = told(&read, example);
        if word != example.expect && !(example.expect == "unknown" && word.starts_with("unknown:")) {
            let what = format!("this answer is read as {word}, the example expects {}{why}", example.expect);
            problems.push(source.problem(example.place, what, "correct the rules or the example"));
        }
    }
    check_enough(&examples, source, definition, problems);
    examples
}

/// Each conversation has at least one example of what it is for.
fn check_enough(
    examples: &[Example],
    source: &Source,
    definition: &CarrierDefinition,
    problems: &mut Problems,
) {
    let any = |what: ExampleFor, words: &[&str]| {
        examples.iter().any(|example| example.what == what && words.contains(&example.expect))
    };
    let mut need = |what: ExampleFor, words: &[&str], name: &str| {
        if !any(what, words) {
            let help = "without one nobody knows that the rules and the echoes fit the carrier's answers";
            let told = format!("no example{name} is expected to be {}", words.join(" or "));
            problems.push(source.problem(SourcePlace::START, told, help));
        }
    };
    for (_, what) in &definition.spoken {
        let spoken = ExampleFor::Spoken(*what);
        match what {
            For::Op(Op::Reserve) => need(spoken, &["reserved"], " for reserve"),
            For::Op(Op::Confirm) => need(spoken, &["charged"], " for confirm"),
            For::Op(Op::Cancel) => need(spoken, &["released"], " for cancel"),
            For::Op(Op::Refund) => need(spoken, &["refunded"], " for refund"),
            For::Op(_) => need(spoken, &["charged"], ""),
            For::Inquiry => {
                need(spoken, &["charged"], " for inquiry");
                need(spoken, &["not_found"], " for inquiry");
            }
            For::Balance => need(spoken, &["enough", "too_low", "amount"], " for balance"),
        }
    }
    if let Some(callback) = &definition.callback {
        let words: &[&str] = if callback.is_signed() { &["charged"] } else { &["pending", "unknown"] };
        need(ExampleFor::Callback, words, " for callback");
    }
}

impl Example {
    fn read(&self, definition: &CarrierDefinition, attempt: &Attempt) -> Result<Reading, BuildError> {
        let mut body = Vec::new();
        self.body.render(attempt, &mut body)?;
        let answer =
            Answer { status: self.status, headers: &self.headers, body: &body, at: attempt.intent_at };
        let unreadable = Reading::unanswered(Outcome::Unknown(Doubt::Unreadable), None);
        Ok(match self.what {
            ExampleFor::Spoken(what) => match definition.operation(what) {
                Some(operation) => operation.replies.read(answer, attempt),
                None => unreadable,
            },
            // The signature is the receiver's affair: an example shows what a true message says.
            ExampleFor::Callback => match definition.callback.as_ref().map(|rules| rules.read(&body, true)) {
                Some(Ok(callback)) => match callback.held_against(attempt, definition.caps.partial) {
                    Ok(outcome) => Reading::unanswered(outcome, None),
                    Err(alert) => Reading::unanswered(Outcome::Unknown(Doubt::Contradictory), Some(alert)),
                },
                _ => unreadable,
            },
        })
    }

    fn attempt(&self, definition: &CarrierDefinition) -> Option<Attempt> {
        let mut attempt = sample(definition, self.amount_minor)?;
        attempt.op = self.op;
        attempt.kind = match self.what {
            ExampleFor::Spoken(For::Inquiry) => ExchangeKind::Inquiry,
            ExampleFor::Spoken(For::Balance) => ExchangeKind::Balance,
            _ => ExchangeKind::Send,
        };
        Some(attempt)
    }
}

/// What an example may be for: what the definition offers.
fn kinds(definition: &CarrierDefinition) -> Vec<(&'static str, (ExampleFor, Op))> {
    let mut kinds: Vec<(&'static str, (ExampleFor, Op))> = definition
        .spoken
        .iter()
        .map(|(_, what)| match what {
            For::Op(op) => (op.name(), (ExampleFor::Spoken(*what), *op)),
            For::Inquiry => ("inquiry", (ExampleFor::Spoken(*what), Op::Charge)),
            For::Balance => ("balance", (ExampleFor::Spoken(*what), Op::Charge)),
        })
        .collect();
    if definition.callback.is_some() {
        kinds.push(("callback", (ExampleFor::Callback, Op::Charge)));
    }
    kinds
}

fn read_example(
    mut table: Table<'_>,
    definition: &CarrierDefinition,
    problems: &mut Problems,
) -> Option<Example> {
    let what = table.one_of("for", &kinds(definition), problems);
    let (what, mut op) =
        what.map_or((ExampleFor::Spoken(For::Op(Op::Charge)), Op::Charge), |what| what.value);
    let status = match what {
        ExampleFor::Callback => Some(0),
        ExampleFor::Spoken(_) => table.int("status", 200..=599, problems).map(|status| status.value as u16),
    };
    if matches!(what, ExampleFor::Callback | ExampleFor::Spoken(For::Inquiry)) {
        let ops: Vec<(&str, Op)> = definition.caps.ops.iter().map(|op| (op.name(), *op)).collect();
        op = table.opt_one_of("op", &ops, problems).map_or(op, |op| op.value);
    }
    let tells_minor = if table.has("tells") {
        read_amount(&mut table, "tells", Some(definition.caps.currency), problems)
    } else {
        None
    };
    let mut headers = Some(HeaderMap::new());
    if let Some(mut given) = table.opt_table("headers", problems) {
        for key in given.keys() {
            let value = given.str(&key, problems).and_then(|value| HeaderValue::from_str(&value).ok());
            let header = HeaderName::from_bytes(key.as_bytes()).ok().zip(value);
            match (header, &mut headers) {
                (Some((name, value)), Some(headers)) => drop(headers.insert(name, value)),
                _ => {
                    given.problem_at(key.place, format!("{:?} is not a header", clip(&key)), "", problems);
                    headers = None;
                }
            }
        }
        given.finish(problems);
    }
    let caps = &definition.caps;
    let amount_minor = if table.has("amount") {
        read_amount(&mut table, "amount", Some(caps.currency), problems)
    } else {
        table.opt_str("amount", problems);
        let major = SAMPLE_MAJOR * 10_i64.pow(caps.currency.exponent());
        Some(major.max(caps.min_minor).min(caps.max_minor))
    };
    let around =
        Surroundings { currency: caps.currency, msisdn: Some(&definition.msisdn), secrets: &NoSecrets };
    let body = table.str("body", problems).and_then(|text| {
        Template::compile(&text, Place::Raw, around)
            .map_err(|(at, error)| {
                let place = table.source().place_within(&text, at);
                table.problem_at(place, error.to_string(), "", problems);
            })
            .ok()
    });
    let subject = match what {
        ExampleFor::Spoken(For::Op(op)) => Subject::Request(op),
        ExampleFor::Spoken(For::Inquiry) => Subject::Inquiry,
        ExampleFor::Spoken(For::Balance) => Subject::Balance,
        ExampleFor::Callback => Subject::Callback { signed: true },
    };
    let words: Vec<(&str, &'static str)> =
        subject.words().into_iter().map(|(word, _)| (word, word)).chain(DOUBTS).collect();
    let expect = table.one_of("expect", &words, problems);
    if expect.as_ref().is_some_and(|expect| expect.value == "amount") && tells_minor.is_none() {
        let help = "tells = \"5.00\": a wrong scale is found only by its value";
        table.problem("expect", "`amount` without the amount", help, problems);
    }
    let place = table.place();
    table.finish(problems);
    Some(Example {
        what,
        op,
        tells_minor,
        status: status?,
        headers: headers?,
        body: body?,
        amount_minor: amount_minor?,
        expect: expect?.value,
        place,
    })
}

/// Each request can be made for the smallest and the largest amount, and its body is JSON whatever the text says.
/// `places`: where the bodies stand.
pub(super) fn check_requests(
    source: &Source,
    places: &[SourcePlace],
    definition: &CarrierDefinition,
    problems: &mut Problems,
) {
    for ((operation, what), place) in definition.spoken.iter().zip(places) {
        check_request(source, *place, definition, (operation, *what), problems);
    }
}

fn check_request(
    source: &Source,
    place: SourcePlace,
    definition: &CarrierDefinition,
    (operation, what): (&Operation, For),
    problems: &mut Problems,
) {
    let refuse = |what: String, problems: &mut Problems| problems.push(source.problem(place, what, ""));
    for minor in [definition.caps.min_minor, definition.caps.max_minor] {
        let Some(mut attempt) = sample(definition, minor) else {
            refuse("no example attempt can be made for this carrier".to_owned(), problems);
            return;
        };
        attempt.text = "a \"quoted\\ text\", with {braces}\n".into();
        if let For::Op(op) = what {
            attempt.op = op;
        }
        let amount = attempt.amount;
        let mut out = Vec::new();
        if let Some(body) = &operation.body {
            match body.render(&attempt, &mut out) {
                Ok(()) if Places::new().read(&out).is_err() => {
                    refuse("the body of the request is not JSON".to_owned(), problems);
                    return;
                }
                Ok(()) => {}
                Err(error) => refuse(format!("no request can be made for {amount}: {error}"), problems),
            }
        }
        out.clear();
        if let Err(error) = operation.path.render(&attempt, &mut out) {
            refuse(format!("no path can be made for {amount}: {error}"), problems);
        }
    }
}

/// An attempt that is the same every time.
fn sample(definition: &CarrierDefinition, amount_minor: i64) -> Option<Attempt> {
    let period = Period::starting(jiff::civil::date(2026, 1, 15), 360).ok()?;
    let charge = ChargeId { subscription: SubscriptionId(1 << 44 | 1), period };
    Some(Attempt {
        ticket: 1,
        id: AttemptId { charge, attempt_no: 2 },
        our_ref: OurRef::new(RefSeed(0x0123_4567_89ab_cdef), period, 2).ok()?,
        op: Op::Charge,
        msisdn: definition.msisdn.sample()?,
        amount: Money::new(amount_minor, definition.caps.currency),
        text: "Daily horoscope".into(),
        intent_at: Zone::named("UTC").ok()?.instant(period.date(), period.minute()).ok()?,
        kind: ExchangeKind::Send,
        carrier_txn_id: Some("t-000000000002".into()),
        parent_ref: OurRef::new(RefSeed(0x0123_4567_89ab_cdef), period, 1).ok(),
        parent_txn_id: Some("t-000000000001".into()),
    })
}

/// The word for what an answer was read as, as far as the engine will believe it, and why.
fn told(read: &Reading, example: &Example) -> (&'static str, String) {
    let status = example.status;
    match read.finding {
        Some(Finding::Inquiry(Inquired::NotFound)) => return ("not_found", String::new()),
        Some(Finding::Inquiry(Inquired::StillWorking)) => return ("still_working", String::new()),
        Some(Finding::Balance(Balance::Enough)) => return ("enough", String::new()),
        Some(Finding::Balance(Balance::TooLow)) => return ("too_low", String::new()),
        Some(Finding::Balance(Balance::Amount(minor))) if Some(minor) == example.tells_minor => {
            return ("amount", String::new());
        }
        Some(Finding::Balance(Balance::Amount(minor))) => {
            return ("another amount", format!(" (it is read as {minor} minor units)"));
        }
        _ => {}
    }
    // A question moves nothing: what was not processed needs no proof.
    let is_question = matches!(example.what, ExampleFor::Spoken(For::Inquiry | For::Balance));
    let unlisted = |table: &str, word: &str| {
        (
            "unknown:not_listed",
            format!(" ({word}, but {status} is not in proof.{table} and the rule is not marked {table})"),
        )
    };
    let word = |verdict: Verdict| (verdict.word(), String::new());
    match read.outcome {
        Outcome::Charged { .. } => word(Verdict::Charged),
        Outcome::Partial { .. } => word(Verdict::Partial),
        Outcome::Pending => word(Verdict::Pending),
        Outcome::Duplicate => word(Verdict::Duplicate),
        Outcome::NeedsConsent => word(Verdict::NeedsConsent),
        Outcome::Declined(refusal) => word(Verdict::Declined(refusal)),
        Outcome::Refunded { .. } => word(Verdict::Refunded),
        Outcome::Reserved => word(Verdict::Reserved),
        Outcome::Released => word(Verdict::Released),
        Outcome::Temporary { why, listed: false, .. } if !is_question => {
            unlisted("not_processed", Verdict::Temporary(why).word())
        }
        Outcome::Temporary { why, .. } => word(Verdict::Temporary(why)),
        Outcome::Fault { what, listed: false } if !is_question => {
            unlisted("pre_processing", Verdict::Fault(what).word())
        }
        Outcome::Fault { what, .. } => word(Verdict::Fault(what)),
        Outcome::Unknown(Doubt::Contradictory) => {
            ("unknown:contradictory", format!(" ({})", read.alert.map_or("", Alert::name)))
        }
        Outcome::Unknown(Doubt::Unreadable) => ("unknown:unreadable", String::new()),
        _ => ("unknown:unlisted", String::new()),
    }
}

/// The dictionary of [`CarrierDefinition::dictionary`].
pub(super) fn dictionary(definition: &CarrierDefinition) -> Vec<u8> {
    let mut out = Vec::new();
    // Rare answers first: a compressor reaches the end of a dictionary more cheaply.
    let mut seen = BTreeMap::new();
    for example in definition.examples.iter().rev().filter(|example| example.what != ExampleFor::Callback) {
        let Some(attempt) = example.attempt(definition) else { continue };
        let mut body = Vec::new();
        if example.body.render(&attempt, &mut body).is_ok() && seen.insert(body.clone(), ()).is_none() {
            push_answer(example, &body, &mut out);
        }
    }
    let charge = ExampleFor::Spoken(For::Op(Op::Charge));
    let usual = |example: &&Example| example.what == charge && example.expect == "charged";
    if let Some(example) = definition.examples.iter().find(usual)
        && let Some(attempt) = sample(definition, example.amount_minor)
    {
        push_request(definition, &attempt, &mut out);
        let mut body = Vec::new();
        if example.body.render(&attempt, &mut body).is_ok() {
            push_answer(example, &body, &mut out);
        }
    }
    let mut mask = Mask::default();
    definition.each_secret(|secret| mask.add(secret));
    mask.apply(&mut out);
    let surplus = out.len().saturating_sub(DICTIONARY_BYTES_MAX);
    out.split_off(surplus)
}

fn push_answer(example: &Example, body: &[u8], out: &mut Vec<u8>) {
    let status = StatusCode::from_u16(example.status).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or("");
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\ndate: {}\r\n\r\n",
        status.as_str(),
        body.len(),
        "Thu, 15 Jan 2026 06:00:00 GMT",
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
}

fn push_request(definition: &CarrierDefinition, attempt: &Attempt, out: &mut Vec<u8>) {
    let link = &definition.link;
    let Ok(target) = Target::parse(&link.base, link.allow_plain, link.allow_private) else { return };
    let prepared = Prepared::new(&definition.charge, &target, &definition.auth);
    let mut body = Vec::new();
    let Ok(request) = prepared.request(&definition.charge, attempt, &mut body) else { return };
    out.extend_from_slice(format!("{} {} HTTP/1.1\r\n", request.method(), request.uri()).as_bytes());
    for (name, value) in request.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    // The rendered body is what the request was made of.
    out.extend_from_slice(&body);
}
