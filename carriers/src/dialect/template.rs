//! Request templates: text with `${...}` placeholders, compiled once, rendered by copying segments.
//!
//! No logic, no loops, no files. Each place escapes what is put into it, so a value cannot break out of its field.

use std::fmt;

use billing_core::money::Currency;
use thiserror::Error;
use zeroize::Zeroizing;

use super::amount::{push_decimal, push_integer};
use crate::adapter::Attempt;
use crate::msisdn::MsisdnRule;
use crate::secrets::Secrets;

/// Bytes of the longest rendered text.
pub(crate) const RENDERED_BYTES_MAX: usize = 64 * 1024;

/// Where a template's text goes, and so how values are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A JSON text: strings are escaped, only amounts may stand outside of quotes.
    Json,
    /// A header's value: printable ASCII only, refused otherwise.
    Header,
    /// A path or query: everything but unreserved characters is percent-encoded.
    Url,
    /// Taken as it is: for a definition's own examples.
    Raw,
}

/// What a template may refer to besides the attempt.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) currency: Currency,
    pub(crate) msisdn: Option<&'a MsisdnRule>,
    pub(crate) secrets: &'a dyn Secrets,
}

/// A compiled template.
#[derive(Clone)]
pub(crate) struct Template {
    place: Place,
    parts: Vec<Part>,
}

#[derive(Clone)]
enum Part {
    Text(Box<[u8]>),
    /// Escaped already.
    Secret(Zeroizing<Vec<u8>>),
    OurRef,
    ParentRef,
    /// The carrier's id of the attempt itself.
    TxnId,
    /// The carrier's id of the attempt that it points at.
    ParentTxnId,
    RequestId,
    Msisdn(MsisdnForm),
    Decimal {
        exponent: u32,
        decimals: u32,
    },
    Minor,
    Currency(&'static str),
    Words,
    Now(TimeForm),
}

#[derive(Clone)]
enum MsisdnForm {
    E164,
    Plus,
    National { prefix: Box<str> },
}

#[derive(Clone)]
enum TimeForm {
    Epoch,
    EpochMs,
    Rfc3339,
    Pattern(Box<str>),
}

/// Why a template cannot be compiled.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// A `${` without its `}`.
    #[error("\"${{\" without \"}}\"")]
    Unclosed,
    /// No such placeholder.
    #[error("unknown placeholder ${{{0}}}")]
    Unknown(String),
    /// No such form of a placeholder.
    #[error("${{{name}}} has no form {form:?}: {known}")]
    Form {
        /// The placeholder.
        name: &'static str,
        /// The form that was asked for.
        form: String,
        /// The forms that there are.
        known: &'static str,
    },
    /// Outside of quotes only numbers may stand.
    #[error("${{{0}}} stands outside of quotes: only an amount may")]
    Unquoted(String),
    /// `national` needs to know what to cut off.
    #[error("${{msisdn:national}} needs carrier.msisdn with the prefix to cut off")]
    NoPrefix,
    /// The named secret is not to be had.
    #[error("${{secret.{name}}}: {why}")]
    Secret {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
}

/// Why a request cannot be made for an attempt. Nothing was sent.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum BuildError {
    /// The carrier's form cannot hold the amount without losing a digit.
    #[error("the amount does not fit the carrier's form")]
    Amount,
    /// The amount is outside of what the carrier takes.
    #[error("the amount is outside of the carrier's limits")]
    Limits,
    /// Not the carrier's currency.
    #[error("the currency is not the carrier's")]
    Currency,
    /// The carrier's definition does not have the operation.
    #[error("the carrier does not offer the operation")]
    Operation,
    /// The number is not one of the carrier's.
    #[error("the number does not begin with the carrier's prefix")]
    Msisdn,
    /// A value holds what its place may not hold.
    #[error("a value holds characters that its place may not hold")]
    Characters,
    /// A value is empty.
    #[error("a placeholder has no value")]
    Empty,
    /// More than 64 KiB.
    #[error("the request is longer than 64 KiB")]
    TooLong,
    /// The instant has no such form.
    #[error("the time cannot be written in the carrier's form")]
    Time,
}

impl Template {
    /// Compiles a text; `$${` stands for a plain `${`.
    ///
    /// # Errors
    /// Every variant of [`TemplateError`], with the byte at which the placeholder begins.
    pub(crate) fn compile(
        text: &str,
        place: Place,
        around: Surroundings<'_>,
    ) -> Result<Self, (usize, TemplateError)> {
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        let mut quotes = Quotes::default();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, after) = (&rest[..at], &rest[at + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                plain.extend_from_slice(before.as_bytes());
                plain.extend_from_slice(b"${");
                quotes.pass(before);
                rest = after;
                continue;
            }
            plain.extend_from_slice(before.as_bytes());
            quotes.pass(before);
            let begins = text.len() - after.len() - 2;
            let (name, tail) = after.split_once('}').ok_or((begins, TemplateError::Unclosed))?;
            let part = placeholder(name, place, around).map_err(|error| (begins, error))?;
            let number = matches!(part, Part::Decimal { .. } | Part::Minor);
            if place == Place::Json && !quotes.inside && !number {
                return Err((begins, TemplateError::Unquoted(name.to_owned())));
            }
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain).into()));
            }
            parts.push(part);
            rest = tail;
        }
        plain.extend_from_slice(rest.as_bytes());
        if !plain.is_empty() {
            parts.push(Part::Text(plain.into()));
        }
        Ok(Self { place, parts })
    }

    /// Appends the text for an attempt.
    ///
    /// # Errors
    /// Every variant of [`BuildError`]; what was appended is then of no use.
    pub(crate) fn render(&self, attempt: &Attempt, out: &mut Vec<u8>) -> Result<(), BuildError> {
        let start = out.len();
        for part in &self.parts {
            self.part(part, attempt, out)?;
        }
        if out.len() - start > RENDERED_BYTES_MAX { Err(BuildError::TooLong) } else { Ok(()) }
    }

    /// The text, when it is the same for every attempt.
    pub(crate) fn constant(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [] => Some(&[]),
            [Part::Text(text)] => Some(text),
            [Part::Secret(text)] => Some(text),
            _ => None,
        }
    }

    /// Our key stands in it.
    pub(crate) fn has_our_ref(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::OurRef))
    }

    /// The carrier's id of the attempt stands in it.
    pub(crate) fn has_txn_id(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::TxnId))
    }

    /// It points at another attempt.
    pub(crate) fn has_parent(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::ParentRef | Part::ParentTxnId))
    }

    /// The secrets inside, as they stand on the wire.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().filter_map(|part| match part {
            Part::Secret(text) => Some(text.as_slice()),
            _ => None,
        })
    }

    fn part(&self, part: &Part, attempt: &Attempt, out: &mut Vec<u8>) -> Result<(), BuildError> {
        match part {
            Part::Text(text) => out.extend_from_slice(text),
            Part::Secret(text) => out.extend_from_slice(text),
            // Base32 and upper-case letters: safe in every place.
            Part::OurRef => out.extend_from_slice(&attempt.our_ref.base32()),
            Part::ParentRef => {
                out.extend_from_slice(&attempt.parent_ref.ok_or(BuildError::Empty)?.base32());
            }
            Part::TxnId => push_id(self.place, attempt.carrier_txn_id.as_deref(), out)?,
            Part::ParentTxnId => push_id(self.place, attempt.parent_txn_id.as_deref(), out)?,
            Part::Currency(code) => out.extend_from_slice(code.as_bytes()),
            Part::RequestId => push(self.place, &attempt.id.to_string(), out)?,
            Part::Msisdn(form) => {
                let digits = attempt.msisdn.digits();
                match form {
                    MsisdnForm::E164 => out.extend_from_slice(digits.as_bytes()),
                    MsisdnForm::Plus => {
                        push(self.place, "+", out)?;
                        out.extend_from_slice(digits.as_bytes());
                    }
                    MsisdnForm::National { prefix } => {
                        let national = digits.strip_prefix(&**prefix).ok_or(BuildError::Msisdn)?;
                        push(self.place, national, out)?;
                    }
                }
            }
            Part::Decimal { exponent, decimals } => {
                if !push_decimal(attempt.amount.minor, *exponent, *decimals, out) {
                    return Err(BuildError::Amount);
                }
            }
            Part::Minor => {
                let minor = u64::try_from(attempt.amount.minor).map_err(|_| BuildError::Amount)?;
                push_integer(minor, out);
            }
            Part::Words => push(self.place, &attempt.text, out)?,
            Part::Now(form) => push(self.place, &form.text(attempt)?, out)?,
        }
        Ok(())
    }
}

/// Shows the shape only: parts may be secret.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?}, {} parts)", self.place, self.parts.len())
    }
}

impl TimeForm {
    fn text(&self, attempt: &Attempt) -> Result<String, BuildError> {
        let at = attempt.intent_at;
        Ok(match self {
            Self::Epoch => at.as_second().to_string(),
            Self::EpochMs => at.as_millisecond().to_string(),
            Self::Rfc3339 => format!("{at:.3}"),
            Self::Pattern(pattern) => {
                let utc = at.to_zoned(jiff::tz::TimeZone::UTC);
                jiff::fmt::strtime::format(pattern.as_bytes(), &utc).map_err(|_| BuildError::Time)?
            }
        })
    }
}

fn placeholder(name: &str, place: Place, around: Surroundings<'_>) -> Result<Part, TemplateError> {
    if let Some(secret) = name.strip_prefix("secret.") {
        return secret_part(secret, place, around);
    }
    let (word, form) = name.split_once(':').map_or((name, None), |(word, form)| (word, Some(form)));
    let wrong = |name, known| TemplateError::Form { name, form: form.unwrap_or("").to_owned(), known };
    let exponent = around.currency.exponent();
    match (word, form) {
        ("our_ref", None) => Ok(Part::OurRef),
        ("parent.our_ref", None) => Ok(Part::ParentRef),
        ("parent.carrier_txn_id", None) => Ok(Part::ParentTxnId),
        ("carrier_txn_id", None) => Ok(Part::TxnId),
        ("request_id", None) => Ok(Part::RequestId),
        ("currency", None) => Ok(Part::Currency(around.currency.code())),
        ("text", None) => Ok(Part::Words),
        ("msisdn", Some("e164")) => Ok(Part::Msisdn(MsisdnForm::E164)),
        ("msisdn", Some("plus")) => Ok(Part::Msisdn(MsisdnForm::Plus)),
        ("msisdn", Some("national")) => {
            let prefix = around.msisdn.ok_or(TemplateError::NoPrefix)?.prefix.clone();
            Ok(Part::Msisdn(MsisdnForm::National { prefix }))
        }
        ("msisdn", _) => Err(wrong("msisdn", "e164, plus or national")),
        ("amount", Some("minor")) => Ok(Part::Minor),
        ("amount", Some("decimal")) => Ok(Part::Decimal { exponent, decimals: exponent }),
        ("amount", _) => {
            let decimals = form
                .and_then(|form| form.strip_prefix("decimal(")?.strip_suffix(')')?.parse().ok())
                .filter(|decimals| *decimals <= 6);
            let decimals =
                decimals.ok_or_else(|| wrong("amount", "decimal, decimal(0) to decimal(6) or minor"))?;
            Ok(Part::Decimal { exponent, decimals })
        }
        ("now", Some("epoch")) => Ok(Part::Now(TimeForm::Epoch)),
        ("now", Some("epoch_ms")) => Ok(Part::Now(TimeForm::EpochMs)),
        ("now", Some("rfc3339")) => Ok(Part::Now(TimeForm::Rfc3339)),
        ("now", Some(pattern)) => {
            let sample = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
            let fits = pattern.contains('%') && jiff::fmt::strtime::format(pattern, &sample).is_ok();
            if !fits {
                return Err(wrong(
                    "now",
                    "epoch, epoch_ms, rfc3339 or a pattern such as %Y%m%d%H%M%S (in UTC)",
                ));
            }
            Ok(Part::Now(TimeForm::Pattern(pattern.into())))
        }
        ("now", None) => {
            Err(wrong("now", "epoch, epoch_ms, rfc3339 or a pattern such as %Y%m%d%H%M%S (in UTC)"))
        }
        _ => Err(TemplateError::Unknown(name.chars().take(64).collect())),
    }
}

fn secret_part(name: &str, place: Place, around: Surroundings<'_>) -> Result<Part, TemplateError> {
    let refused = |why: String| TemplateError::Secret { name: name.chars().take(64).collect(), why };
    let secret = around.secrets.lookup(name).map_err(|error| refused(error.to_string()))?;
    let mut escaped = Zeroizing::new(Vec::with_capacity(secret.len() * 6));
    push(place, &secret, &mut escaped).map_err(|error| refused(error.to_string()))?;
    Ok(Part::Secret(escaped))
}

/// Follows whether a JSON template's own text stands inside a string.
#[derive(Default)]
struct Quotes {
    inside: bool,
    escaped: bool,
}

impl Quotes {
    fn pass(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.inside => self.escaped = true,
                b'"' => self.inside = !self.inside,
                _ => {}
            }
        }
    }
}

/// A carrier's own id. A question or a refund with an empty one would be about nothing, or about everything.
fn push_id(place: Place, id: Option<&str>, out: &mut Vec<u8>) -> Result<(), BuildError> {
    push(place, id.filter(|id| !id.is_empty()).ok_or(BuildError::Empty)?, out)
}

/// Appends a value as its place needs it.
fn push(place: Place, value: &str, out: &mut Vec<u8>) -> Result<(), BuildError> {
    match place {
        Place::Json => push_json(value, out),
        Place::Raw => out.extend_from_slice(value.as_bytes()),
        Place::Header => {
            // A line break here would let a value write headers of its own.
            if !value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
                return Err(BuildError::Characters);
            }
            out.extend_from_slice(value.as_bytes());
        }
        Place::Url => {
            // An empty segment or "." and ".." would change which resource is asked.
            if value.is_empty() || value == "." || value == ".." {
                return Err(BuildError::Empty);
            }
            push_url(value, out);
        }
    }
    Ok(())
}

fn push_json(value: &str, out: &mut Vec<u8>) {
    let mut rest = value.as_bytes();
    while let Some(at) = rest.iter().position(|b| *b < 0x20 || matches!(b, b'"' | b'\\')) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        if let Some((special, tail)) = tail.split_first() {
            match special {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *special]),
                control => {
                    out.extend_from_slice(b"\\u00");
                    out.extend_from_slice(&hex(*control, b"0123456789abcdef"));
                }
            }
            rest = tail;
        }
    }
    out.extend_from_slice(rest);
}

fn push_url(value: &str, out: &mut Vec<u8>) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte);
        } else {
            out.push(b'%');
            out.extend_from_slice(&hex(byte, b"0123456789ABCDEF"));
        }
    }
}

fn hex(byte: u8, digits: &[u8; 16]) -> [u8; 2] {
    [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::msisdn::Msisdn;
    use crate::secrets::{NoSecrets, SecretError};
    use crate::test_support::attempt;
    use proptest::prelude::*;

    struct Quoted;

    impl Secrets for Quoted {
        fn lookup(&self, _: &str) -> Result<Zeroizing<String>, SecretError> {
            Ok(Zeroizing::new("se\"cret/1".to_owned()))
        }
    }

    fn around(secrets: &dyn Secrets) -> Surroundings<'_> {
        Surroundings { currency: Currency::from_code("EUR").unwrap(), msisdn: None, secrets }
    }

    fn rendered(text: &str, place: Place, words: &str) -> Result<String, BuildError> {
        let mut attempt = attempt(199, "EUR", "34600000001");
        attempt.text = words.into();
        let mut out = Vec::new();
        Template::compile(text, place, around(&NoSecrets)).unwrap().render(&attempt, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// Values that try to leave their field.
    const HOSTILE: [&str; 14] = [
        "\"",
        "\\",
        "\\\"",
        "\",\"amount\":0,\"x\":\"",
        "\"}} , {\"",
        "a\r\nX-Evil: 1",
        "\u{0}\u{1f}\u{7f}",
        "${amount:minor}",
        "../../admin?x=1#y",
        "a b&c=d;e",
        "é😀\u{2028}\u{2029}",
        "</script>",
        "%0d%0a",
        "\u{feff}",
    ];

    #[test]
    fn json_values_cannot_leave_their_string() {
        let text = r#"{"amount":${amount:decimal(2)},"text":"${text}","key":"${our_ref}"}"#;
        for words in HOSTILE {
            let body = rendered(text, Place::Json, words).unwrap();
            let read: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(read["text"], *words, "{body}");
            assert_eq!(read["amount"].to_string(), "1.99");
            assert_eq!(read.as_object().unwrap().len(), 3);
        }
    }

    #[test]
    fn header_values_with_line_breaks_are_refused() {
        for words in HOSTILE {
            let plain = words.bytes().all(|b| (0x20..0x7f).contains(&b));
            assert_eq!(rendered("x-${text}", Place::Header, words).is_ok(), plain, "{words:?}");
        }
    }

    #[test]
    fn url_values_stay_one_segment() {
        for words in HOSTILE {
            let path = rendered("/pay/${text}/x?m=${msisdn:plus}", Place::Url, words).unwrap();
            let uri: http::Uri = path.parse().unwrap();
            assert_eq!(uri.path().split('/').count(), 4, "{path}");
            assert_eq!(uri.query(), Some("m=%2B34600000001"));
        }
        for words in ["", ".", ".."] {
            assert_eq!(rendered("/pay/${text}", Place::Url, words), Err(BuildError::Empty));
        }
    }

    #[test]
    fn every_placeholder_has_its_form() {
        let text = "${our_ref} ${msisdn:e164} ${msisdn:plus} ${amount:decimal} ${amount:decimal(3)} ${amount:minor} \
                    ${currency} ${request_id} ${now:epoch} ${now:rfc3339} ${now:%Y%m%d%H%M%S} $${text}";
        let id = attempt(1, "EUR", "34600000001");
        let expected = format!(
            "{} 34600000001 +34600000001 1.99 1.990 199 EUR {} 1795255200 2026-11-21T10:00:00.000Z 20261121100000 ${{text}}",
            id.our_ref, id.id
        );
        assert_eq!(rendered(text, Place::Raw, "").unwrap(), expected);
    }

    #[test]
    fn national_numbers_lose_the_prefix() {
        let rule = MsisdnRule { prefix: "34".into(), digits: 11 };
        let around = Surroundings { msisdn: Some(&rule), ..around(&NoSecrets) };
        let template = Template::compile("${msisdn:national}", Place::Raw, around).unwrap();
        let mut attempt = attempt(1, "EUR", "34600000001");
        let mut out = Vec::new();
        template.render(&attempt, &mut out).unwrap();
        assert_eq!(out, b"600000001");
        attempt.msisdn = Msisdn::parse("21620000001").unwrap();
        assert_eq!(template.render(&attempt, &mut out), Err(BuildError::Msisdn));
    }

    #[test]
    fn wrong_templates_are_refused() {
        let json =
            |text: &str| Template::compile(text, Place::Json, around(&NoSecrets)).unwrap_err().1.to_string();
        assert_eq!(json("{\"a\":\"${our_ref\"}").as_str(), "unknown placeholder ${our_ref\"}");
        assert_eq!(json("${our_ref"), "\"${\" without \"}\"");
        assert_eq!(json("\"${our_reff}\""), "unknown placeholder ${our_reff}");
        assert_eq!(json("\"${msisdn}\""), "${msisdn} has no form \"\": e164, plus or national");
        assert_eq!(json("{\"a\":${text}}"), "${text} stands outside of quotes: only an amount may");
        assert_eq!(json("{\"a\\\"\":${our_ref}}"), "${our_ref} stands outside of quotes: only an amount may");
        assert_eq!(
            json("\"${amount:decimal(9)}\"").as_str(),
            "${amount} has no form \"decimal(9)\": decimal, decimal(0) to decimal(6) or minor"
        );
        assert_eq!(json("\"${secret.x}\""), "${secret.x}: no secrets are at hand");
        assert!(json("\"${now:%!}\"").starts_with("${now} has no form"));
        assert_eq!(json("\"${msisdn:national}\""), TemplateError::NoPrefix.to_string());
    }

    #[test]
    fn secrets_are_escaped_and_not_shown() {
        let template = Template::compile("\"${secret.x}\"", Place::Json, around(&Quoted)).unwrap();
        assert_eq!(template.secrets().next().unwrap(), b"se\\\"cret/1");
        assert!(!format!("{template:?}").contains("cret/1"));
    }

    #[test]
    fn amounts_that_do_not_fit_are_not_sent() {
        assert_eq!(rendered("${amount:decimal(1)}", Place::Json, ""), Err(BuildError::Amount));
        assert_eq!(rendered("${text}", Place::Raw, &"x".repeat(70_000)), Err(BuildError::TooLong));
    }

    proptest! {
        #[test]
        fn any_text_survives_json(words in any::<String>()) {
            let body = rendered("{\"t\":\"${text}\"}", Place::Json, &words).unwrap();
            let read: serde_json::Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(read["t"].as_str(), Some(words.as_str()));
        }

        #[test]
        fn any_template_compiles_or_is_refused(text in ".{0,60}") {
            let _ = Template::compile(&text, Place::Json, around(&NoSecrets));
        }
    }
}
