//! Reads the table of one operation: its request template and its reply rules.

use billing_core::book::reader::{Problems, Spanned, Table};
use billing_core::money::Currency;
use billing_core::outcome::Op;
use http::{HeaderName, Method};

use super::InquiryKey;
use super::proof::{EchoText, ProofText, amount_is_minor, read_echo};
use super::read::clip;
use crate::dialect::Operation;
use crate::dialect::json::{Places, Slot};
use crate::dialect::replies::{AmountForm, Echo, Replies};
use crate::dialect::rules::{Condition, Rule, Subject, Test, Verdict};
use crate::dialect::template::{Place, Surroundings, Template};
use crate::http::is_reserved;
use crate::msisdn::MsisdnRule;
use crate::secrets::Secrets;

const RULES_MAX: usize = 200;
const CONDITIONS_MAX: usize = 16;
const HEADERS_MAX: usize = 32;

/// What an operation's table refers to.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) currency: Currency,
    pub(super) msisdn: &'a MsisdnRule,
    pub(super) secrets: &'a dyn Secrets,
    pub(super) partial: bool,
    pub(super) proof: &'a ProofText,
}

impl<'a> Around<'a> {
    pub(super) fn surroundings(&self) -> Surroundings<'a> {
        Surroundings { currency: self.currency, msisdn: Some(self.msisdn), secrets: self.secrets }
    }
}

/// Reads a table such as `[charge]`.
pub(super) fn read_operation(
    mut table: Table<'_>,
    subject: Subject,
    around: Around<'_>,
    problems: &mut Problems,
) -> Option<Operation> {
    let operation = read_open_operation(&mut table, subject, around, problems);
    table.finish(problems);
    operation
}

/// The same for a table that has keys of its own besides.
pub(super) fn read_open_operation(
    table: &mut Table<'_>,
    subject: Subject,
    around: Around<'_>,
    problems: &mut Problems,
) -> Option<Operation> {
    let request = read_request(table, around, problems);
    table.opt_one_of("encoding", &[("json", ())], problems);
    let headers = match table.opt_table("headers", problems) {
        Some(headers) => read_headers(headers, around, problems),
        None => Some(Vec::new()),
    };
    let body = match table.opt_str("body", problems) {
        Some(text) => compile(table, &text, Place::Json, around, problems).map(Some),
        None => Some(None),
    };
    let written = request.zip(headers).zip(body);
    if let Some((((method, path), headers), body)) = &written {
        if *method == Method::GET && body.is_some() {
            table.problem("body", "a GET with a body", "leave it out, or use POST", problems);
        }
        let templates: Vec<&Template> =
            headers.iter().map(|(_, template)| template).chain([path]).chain(body).collect();
        check_pointers(table, subject, around, &templates, problems);
    }

    let mut places = Places::new();
    let (mut carrier_txn_id, mut carrier_code) = (None, None);
    if let Some(mut keys) = table.opt_table("keys", problems) {
        carrier_txn_id = opt_pointer(&mut keys, "carrier_txn_id", &mut places, problems);
        carrier_code = opt_pointer(&mut keys, "carrier_code", &mut places, problems);
        keys.finish(problems);
    }
    let own_echo = table.opt_table("echo", problems).map(|echo| read_echo(echo, problems));
    let none = EchoText::default();
    let echo = match (&own_echo, subject) {
        (Some(own), _) => own,
        // What a balance check's answer repeats has another shape than a charge.
        (None, Subject::Balance) => &none,
        (None, _) => &around.proof.echo,
    };
    let echo = resolve_echo(table, echo, &mut places, problems);
    let balance = match subject {
        Subject::Balance => {
            let minor = amount_is_minor(table, problems);
            let slot = opt_pointer(table, "amount", &mut places, problems);
            slot.map(|slot| (slot, if minor { AmountForm::Minor } else { AmountForm::Decimal }))
        }
        _ => None,
    };
    let rules = read_rules(table, subject, &mut places, &echo, around, problems);
    if balance.is_none() && rules.iter().any(|rule| rule.then == Verdict::Amount) {
        let help = "name its place: amount = \"/balance\", and amount_as = \"minor\" for minor units";
        table.problem("rules", "`amount` without its place", help, problems);
    }

    let (((method, path), headers), body) = written?;
    let (not_processed, pre_processing) =
        (around.proof.not_processed.clone(), around.proof.pre_processing.clone());
    let replies = Replies {
        places,
        rules,
        carrier_txn_id,
        carrier_code,
        echo,
        balance,
        not_processed,
        pre_processing,
        partial: around.partial,
    };
    Some(Operation { method, path, headers, body, replies })
}

/// A request must say which attempt it is about, and may point only at what its kind of attempt has.
fn check_pointers(
    table: &Table<'_>,
    subject: Subject,
    around: Around<'_>,
    templates: &[&Template],
    problems: &mut Problems,
) {
    let any = |test: fn(&Template) -> bool| templates.iter().any(|template| test(template));
    let by_txn_id =
        around.proof.caps.inquiry.as_ref().is_some_and(|inquiry| inquiry.by == InquiryKey::CarrierTxnId);
    let (has_key, help) = match subject {
        Subject::Balance => (true, ""),
        Subject::Inquiry if by_txn_id => (any(Template::has_txn_id), "proof.inquiry.by = \"carrier_txn_id\""),
        _ => (any(Template::has_our_ref), "without our key no answer and no question can be matched with it"),
    };
    let key = if subject == Subject::Inquiry && by_txn_id { "${carrier_txn_id}" } else { "${our_ref}" };
    if !has_key {
        table.problem("body", format!("the request does not hold {key}"), help, problems);
    }
    if any(Template::has_txn_id) && subject != Subject::Inquiry {
        let help = "the carrier's id of an attempt is known after its answer: only [inquiry] may name it";
        table.problem("body", "${carrier_txn_id} is not known yet", help, problems);
    }
    let needs_parent = matches!(subject, Subject::Request(Op::Confirm | Op::Cancel | Op::Refund));
    if needs_parent != any(Template::has_parent) {
        let (what, help) = if needs_parent {
            (
                "the request does not point at an earlier attempt",
                "with ${parent.our_ref} or ${parent.carrier_txn_id}",
            )
        } else {
            ("nothing for ${parent...} to point at", "only confirm, cancel and refund follow another attempt")
        };
        table.problem("body", what, help, problems);
    }
}

/// `rules` and `else`.
pub(super) fn read_rules(
    table: &mut Table<'_>,
    subject: Subject,
    places: &mut Places,
    echo: &Echo,
    around: Around<'_>,
    problems: &mut Problems,
) -> Vec<Rule> {
    let rule_tables = table.tables("rules", RULES_MAX, problems);
    if rule_tables.is_empty() {
        let help = match subject {
            Subject::Request(Op::Charge) => "at least one must lead to charged",
            _ => "every answer would be unknown",
        };
        table.problem("rules", "no rules", help, problems);
    }
    let rules = rule_tables
        .into_iter()
        .filter_map(|rule| read_rule(rule, subject, places, echo, around, problems))
        .collect();
    if table.str("else", problems).is_some_and(|other| *other != "unknown") {
        table.problem("else", "`else` may only be \"unknown\"", "what no rule names is unknown", problems);
    }
    rules
}

fn read_request(
    table: &mut Table<'_>,
    around: Around<'_>,
    problems: &mut Problems,
) -> Option<(Method, Template)> {
    let text = table.str("request", problems)?;
    let method = match text.split(' ').next() {
        Some("GET") => Some(Method::GET),
        Some("POST") => Some(Method::POST),
        Some("PUT") => Some(Method::PUT),
        _ => None,
    };
    let path = text.split_once(' ').map(|(_, path)| path).filter(|path| {
        // Placeholders may hold anything: their values are escaped.
        let plain = |b: u8| (0x21..0x7f).contains(&b) && !matches!(b, b'#' | b'\\' | b'"' | b'<' | b'>');
        path.starts_with('/') && !path.starts_with("//") && path.bytes().all(plain)
    });
    let Some((method, path)) = method.zip(path) else {
        let what = format!("request {:?}", clip(&text));
        table.problem(
            "request",
            what,
            "a method (GET, POST, PUT) and a path such as \"POST /payments\"",
            problems,
        );
        return None;
    };
    let before = text.value.len() - path.len();
    match Template::compile(path, Place::Url, around.surroundings()) {
        Ok(template) => Some((method, template)),
        Err((at, error)) => {
            let place = table.source().place_within(&text, before + at);
            table.problem_at(place, error.to_string(), "", problems);
            None
        }
    }
}

fn read_headers(
    mut table: Table<'_>,
    around: Around<'_>,
    problems: &mut Problems,
) -> Option<Vec<(HeaderName, Template)>> {
    let mut headers = Vec::new();
    let keys = table.keys();
    if keys.len() > HEADERS_MAX {
        let what = format!("{} headers", keys.len());
        table.problem_at(table.place(), what, format!("at most {HEADERS_MAX} are sent"), problems);
        return None;
    }
    let mut all_good = true;
    for key in keys {
        let value = table.str(&key, problems);
        let name = HeaderName::from_bytes(key.as_bytes()).ok().filter(|name| !is_reserved(name));
        if name.is_none() {
            let what = format!("header {:?} may not be set", clip(&key));
            table.problem_at(key.place, what, "the link writes what belongs to the connection", problems);
        }
        let value = value.and_then(|value| {
            if value.bytes().any(|b| !(0x20..0x7f).contains(&b)) {
                let what = "a header's value with line breaks or other than ASCII";
                table.problem_at(value.place, what, "printable ASCII on one line", problems);
                return None;
            }
            compile(&table, &value, Place::Header, around, problems)
        });
        match name.zip(value) {
            Some(header) => headers.push(header),
            None => all_good = false,
        }
    }
    table.finish(problems);
    all_good.then_some(headers)
}

fn compile(
    table: &Table<'_>,
    text: &Spanned<String>,
    place: Place,
    around: Around<'_>,
    problems: &mut Problems,
) -> Option<Template> {
    match Template::compile(text, place, around.surroundings()) {
        Ok(template) => Some(template),
        Err((at, error)) => {
            table.problem_at(table.source().place_within(text, at), error.to_string(), "", problems);
            None
        }
    }
}

pub(super) fn resolve_echo(
    table: &Table<'_>,
    text: &EchoText,
    places: &mut Places,
    problems: &mut Problems,
) -> Echo {
    let mut slot = |pointer: &Option<Spanned<String>>| {
        let pointer = pointer.as_ref()?;
        slot_of(table, pointer, places, problems)
    };
    let form = if text.amount_is_minor { AmountForm::Minor } else { AmountForm::Decimal };
    Echo {
        our_ref: slot(&text.our_ref),
        amount: slot(&text.amount).map(|slot| (slot, form)),
        currency: slot(&text.currency),
        msisdn: slot(&text.msisdn),
    }
}

pub(super) fn opt_pointer(
    table: &mut Table<'_>,
    key: &str,
    places: &mut Places,
    problems: &mut Problems,
) -> Option<Slot> {
    let pointer = table.opt_str(key, problems)?;
    slot_of(table, &pointer, places, problems)
}

fn slot_of(
    table: &Table<'_>,
    pointer: &Spanned<String>,
    places: &mut Places,
    problems: &mut Problems,
) -> Option<Slot> {
    let slot = places.slot(pointer);
    if slot.is_none() {
        let what = format!("{:?} is not a JSON pointer", clip(pointer));
        table.problem_at(pointer.place, what, "such as \"/price/amount\"", problems);
    }
    slot
}

fn read_rule(
    mut table: Table<'_>,
    subject: Subject,
    places: &mut Places,
    echo: &Echo,
    around: Around<'_>,
    problems: &mut Problems,
) -> Option<Rule> {
    let statuses = match table.type_of("status") {
        Some("array") => table
            .opt_int_list("status", 200..=599, 50, problems)
            .map_or_else(Vec::new, |list| list.value.iter().map(|status| status.value as u16).collect()),
        _ => table
            .opt_int("status", 200..=599, problems)
            .map(|status| status.value as u16)
            .into_iter()
            .collect(),
    };
    let mut all: Vec<Condition> = read_condition(&mut table, places, problems).into_iter().collect();
    for mut condition in table.tables("all", CONDITIONS_MAX, problems) {
        if !condition.has("at") {
            condition.problem("at", "a condition without `at`", "name the place: at = \"/code\"", problems);
        }
        all.extend(read_condition(&mut condition, places, problems));
        condition.finish(problems);
    }
    let any_body = table.opt_one_of("body", &[("json", false), ("any", true)], problems);
    let any_body = any_body.is_some_and(|any| any.value);
    let then = table.one_of("then", &subject.words(), problems);
    let mark = |table: &mut Table<'_>, key: &str, problems: &mut Problems| {
        table.opt_bool(key, problems).is_some_and(|mark| mark.value)
    };
    let not_processed = mark(&mut table, "not_processed", problems);
    let pre_processing = mark(&mut table, "pre_processing", problems);
    let after = read_after(&mut table, problems);
    let code = opt_pointer(&mut table, "code", places, problems);
    let rule = then.map(|then| Rule {
        statuses,
        all,
        any_body,
        then: then.value,
        listed: not_processed || pre_processing,
        after,
        code,
    });
    if let Some(rule) = &rule {
        check_rule(&table, rule, subject, (not_processed, pre_processing), echo, around, problems);
    }
    table.finish(problems);
    rule
}

/// `at` with one of `is`, `has`, `present`.
pub(super) fn read_condition(
    table: &mut Table<'_>,
    places: &mut Places,
    problems: &mut Problems,
) -> Option<Condition> {
    let at = table.opt_str("at", problems);
    let is = table.opt_str("is", problems).map(|text| Test::Is(text.value.into()));
    let has = table.opt_str("has", problems).map(|text| {
        if text.is_empty() {
            table.problem("has", "`has` is empty", "every text has nothing in it", problems);
        }
        Test::Has(text.value.into())
    });
    let present = table.opt_bool("present", problems).map(|present| Test::Present(present.value));
    let mut tests = [is, has, present].into_iter().flatten();
    let (test, second) = (tests.next(), tests.next());
    match (at, test, second) {
        (None, None, _) => None,
        (Some(at), Some(test), None) => Some(Condition { at: slot_of(table, &at, places, problems)?, test }),
        _ => {
            let help = "`at` names the place, one of `is`, `has`, `present` says what must stand there";
            table.problem("at", "not one complete condition", help, problems);
            None
        }
    }
}

fn read_after(table: &mut Table<'_>, problems: &mut Problems) -> Option<HeaderName> {
    let text = table.opt_str("after", problems)?;
    let name = text.strip_prefix("header:").and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    if name.is_none() {
        table.problem(
            "after",
            format!("after {:?}", clip(&text)),
            "such as \"header:Retry-After\"",
            problems,
        );
    }
    name
}

/// A rule that reads well but would believe too much.
fn check_rule(
    table: &Table<'_>,
    rule: &Rule,
    subject: Subject,
    (not_processed, pre_processing): (bool, bool),
    echo: &Echo,
    around: Around<'_>,
    problems: &mut Problems,
) {
    let temporary = matches!(rule.then, Verdict::Temporary(_));
    let fault = matches!(rule.then, Verdict::Fault(_));
    // A callback has no status of its own, and is matched by its keys.
    let is_callback = matches!(subject, Subject::Callback { .. });
    if is_callback && !rule.statuses.is_empty() {
        table.problem("status", "a callback has no status", "leave it out", problems);
    }
    if rule.then.is_success() && !is_callback {
        let success = !rule.statuses.is_empty() && rule.statuses.iter().all(|status| *status < 300);
        if !success {
            let help = "money is believed on a status of 200 to 299 only";
            table.problem("status", format!("`{}` without such a status", rule.then.word()), help, problems);
        }
        if rule.all.is_empty() && echo.our_ref.is_none() {
            let help = "add a condition, or name the place of our key in proof.echo.our_ref";
            table.problem("then", "money would be believed on a status alone", help, problems);
        }
    }
    let answers =
        [Verdict::NotFound, Verdict::StillWorking, Verdict::Enough, Verdict::TooLow, Verdict::Amount];
    if answers.contains(&rule.then) && rule.all.is_empty() {
        let help = "any proxy can say that: add a condition on the body";
        table.problem("then", format!("`{}` on a status alone", rule.then.word()), help, problems);
    }
    if rule.then == Verdict::Partial && (!around.partial || echo.amount.is_none()) {
        let help = "needs carrier.partial = true and proof.echo.amount";
        table.problem("then", "partial amounts are not declared", help, problems);
    }
    if rule.any_body && (!(temporary || fault) || !rule.all.is_empty() || rule.statuses.is_empty()) {
        let help = "only a temporary or fault rule by status alone may do without a readable body";
        table.problem("body", "`body = \"any\"` does not fit this rule", help, problems);
    }
    if not_processed && !temporary {
        table.problem("not_processed", "`not_processed` marks temporary rules", "", problems);
    }
    if pre_processing && !fault {
        table.problem("pre_processing", "`pre_processing` marks fault rules", "", problems);
    }
    if rule.statuses.is_empty() && rule.all.is_empty() {
        table.problem("then", "a rule that holds for every answer", "add a status or a condition", problems);
    }
}
