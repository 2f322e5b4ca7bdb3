//! Reply rules: which answer means what. A closed table, tried from the top; what it does not name is unknown.

use billing_core::outcome::{Fault, Hindrance, LimitKind, Op, Refusal};

use super::json::{Slot, Values};

/// What a rule says about the answer's class. Amounts and listings are settled elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Charged,
    Partial,
    Pending,
    Duplicate,
    NeedsConsent,
    Declined(Refusal),
    Temporary(Hindrance),
    Fault(Fault),
    Unknown,
    Refunded,
    Reserved,
    Released,
    /// Of an inquiry: the carrier does not know the attempt.
    NotFound,
    /// Of an inquiry: known and not decided.
    StillWorking,
    /// Of a balance check.
    Enough,
    TooLow,
    /// The balance itself, where the table says it stands.
    Amount,
}

/// What a table of rules speaks about; each has words of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Request(Op),
    Inquiry,
    Balance,
    /// A message that the carrier sends by itself; `signed`: its sender is known.
    Callback {
        signed: bool,
    },
}

impl Subject {
    /// The words that may stand behind `then`.
    pub(crate) fn words(self) -> Vec<(&'static str, Verdict)> {
        VERDICTS.iter().chain(&FURTHER).copied().filter(|(_, verdict)| self.allows(*verdict)).collect()
    }

    fn allows(self, verdict: Verdict) -> bool {
        use Verdict as V;
        match (self, verdict) {
            (_, V::Unknown) => true,
            // Who sent it is not known: it may say that there is something to ask about, no more.
            (Self::Callback { signed: false }, _) => verdict == V::Pending,
            (Self::Balance, _) => {
                matches!(verdict, V::Enough | V::TooLow | V::Amount | V::Temporary(_) | V::Fault(_))
            }
            (_, V::Enough | V::TooLow | V::Amount) => false,
            (Self::Request(_), V::NotFound | V::StillWorking) => false,
            (Self::Request(Op::Charge | Op::Confirm), V::Refunded | V::Reserved | V::Released) => false,
            (Self::Request(Op::Reserve), _) => {
                !matches!(verdict, V::Charged | V::Partial | V::Refunded | V::Released)
            }
            (Self::Request(Op::Cancel), _) => {
                !matches!(verdict, V::Charged | V::Partial | V::Refunded | V::Reserved | V::NeedsConsent)
            }
            (Self::Request(Op::Refund), _) => {
                !matches!(verdict, V::Charged | V::Partial | V::Reserved | V::Released | V::NeedsConsent)
            }
            (Self::Request(_), _) => true,
            (Self::Inquiry, _) => !matches!(verdict, V::Pending | V::Duplicate | V::NeedsConsent),
            (Self::Callback { .. }, _) => !matches!(
                verdict,
                V::NotFound
                    | V::StillWorking
                    | V::Duplicate
                    | V::NeedsConsent
                    | V::Temporary(_)
                    | V::Fault(_)
            ),
        }
    }
}

/// Words of other conversations than a charge.
const FURTHER: [(&str, Verdict); 8] = [
    ("refunded", Verdict::Refunded),
    ("reserved", Verdict::Reserved),
    ("released", Verdict::Released),
    ("not_found", Verdict::NotFound),
    ("still_working", Verdict::StillWorking),
    ("enough", Verdict::Enough),
    ("too_low", Verdict::TooLow),
    ("amount", Verdict::Amount),
];

/// Every word that may stand behind the `then` of a charge.
pub(crate) const VERDICTS: [(&str, Verdict); 23] = [
    ("charged", Verdict::Charged),
    ("partial", Verdict::Partial),
    ("pending", Verdict::Pending),
    ("duplicate", Verdict::Duplicate),
    ("needs_consent", Verdict::NeedsConsent),
    ("declined:no_funds", Verdict::Declined(Refusal::NoFunds)),
    ("declined:barred", Verdict::Declined(Refusal::Barred)),
    ("declined:unknown_subscriber", Verdict::Declined(Refusal::UnknownSubscriber)),
    ("declined:limit", Verdict::Declined(Refusal::Limit(LimitKind::PerCharge))),
    ("declined:limit_day", Verdict::Declined(Refusal::Limit(LimitKind::Day))),
    ("declined:limit_week", Verdict::Declined(Refusal::Limit(LimitKind::Week))),
    ("declined:limit_month", Verdict::Declined(Refusal::Limit(LimitKind::Month))),
    ("declined:limit_too_soon", Verdict::Declined(Refusal::Limit(LimitKind::TooSoon))),
    ("declined:subscriber_refused", Verdict::Declined(Refusal::SubscriberRefused)),
    ("declined:not_allowed", Verdict::Declined(Refusal::NotAllowed)),
    ("declined:expired", Verdict::Declined(Refusal::Expired)),
    ("temporary:throttled", Verdict::Temporary(Hindrance::Throttled)),
    ("temporary:busy", Verdict::Temporary(Hindrance::Busy)),
    ("temporary:down", Verdict::Temporary(Hindrance::Down)),
    ("fault:bad_request", Verdict::Fault(Fault::BadRequest)),
    ("fault:bad_credential", Verdict::Fault(Fault::BadCredential)),
    ("fault:bad_price", Verdict::Fault(Fault::BadPrice)),
    ("unknown", Verdict::Unknown),
];

impl Verdict {
    /// The word.
    pub(crate) fn word(self) -> &'static str {
        let mut words = VERDICTS.iter().chain(&FURTHER);
        words.find(|(_, verdict)| *verdict == self).map_or("unknown", |(word, _)| word)
    }

    /// It says that the request did what it was for.
    pub(crate) fn is_success(self) -> bool {
        matches!(self, Self::Charged | Self::Partial | Self::Refunded | Self::Reserved | Self::Released)
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Any of these; empty: any status.
    pub(crate) statuses: Vec<u16>,
    /// All of these.
    pub(crate) all: Vec<Condition>,
    /// Holds even when the body cannot be read.
    pub(crate) any_body: bool,
    pub(crate) then: Verdict,
    /// Said at the rule itself: the carrier did not process the request.
    pub(crate) listed: bool,
    /// The header that says when to come back.
    pub(crate) after: Option<http::HeaderName>,
    /// Where the carrier's code stands.
    pub(crate) code: Option<Slot>,
}

/// What must stand at a place.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pub(crate) at: Slot,
    pub(crate) test: Test,
}

/// How a value is compared. Letters' case counts.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    Is(Box<str>),
    Has(Box<str>),
    Present(bool),
}

impl Condition {
    pub(crate) fn holds(&self, values: &Values<'_>) -> bool {
        let found = values.get(self.at);
        match &self.test {
            Test::Is(text) => found.as_text() == Some(&**text),
            Test::Has(text) => found
                .as_text()
                .is_some_and(|found| memchr::memmem::find(found.as_bytes(), text.as_bytes()).is_some()),
            Test::Present(expected) => found.is_present() == *expected,
        }
    }
}

/// The first rule that holds. `values` is `None` when the body could not be read: only rules that take any body
/// are then asked.
pub(crate) fn first<'r>(rules: &'r [Rule], status: u16, values: Option<&Values<'_>>) -> Option<&'r Rule> {
    rules.iter().find(|rule| {
        (rule.statuses.is_empty() || rule.statuses.contains(&status))
            && match values {
                Some(values) => rule.all.iter().all(|condition| condition.holds(values)),
                None => rule.any_body,
            }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::json::Places;
    use super::*;

    fn parse(word: &str) -> Option<Verdict> {
        VERDICTS.iter().find(|(known, _)| *known == word).map(|(_, verdict)| *verdict)
    }

    fn rule(statuses: &[u16], all: Vec<Condition>, then: &str) -> Rule {
        let then = parse(then).unwrap();
        Rule {
            statuses: statuses.to_vec(),
            all,
            any_body: false,
            then,
            listed: false,
            after: None,
            code: None,
        }
    }

    #[test]
    fn words_and_verdicts_are_one_to_one() {
        for (word, verdict) in VERDICTS {
            assert_eq!((parse(word), verdict.word()), (Some(verdict), word));
        }
        for (word, verdict) in FURTHER {
            assert_eq!((parse(word), verdict.word()), (None, word));
        }
        assert_eq!(parse("approved"), None);
    }

    #[test]
    fn each_conversation_has_its_own_words() {
        let has = |subject: Subject, word: &str| subject.words().iter().any(|(known, _)| *known == word);
        assert_eq!(Subject::Request(Op::Charge).words(), VERDICTS);
        for (op, word) in [
            (Op::Charge, "charged"),
            (Op::Reserve, "reserved"),
            (Op::Confirm, "charged"),
            (Op::Cancel, "released"),
            (Op::Refund, "refunded"),
        ] {
            let subject = Subject::Request(op);
            for success in ["charged", "reserved", "released", "refunded"] {
                assert_eq!(has(subject, success), success == word, "{op:?} {success}");
            }
            assert!(
                !has(subject, "not_found") && !has(subject, "enough") && has(subject, "declined:expired")
            );
        }
        assert!(
            ["charged", "refunded", "not_found", "still_working"].iter().all(|w| has(Subject::Inquiry, w))
        );
        assert!(["duplicate", "pending", "enough"].iter().all(|w| !has(Subject::Inquiry, w)));
        assert!(["charged", "declined:no_funds"].iter().all(|w| !has(Subject::Balance, w)));
        let words = |subject: Subject| subject.words().into_iter().map(|(word, _)| word).collect::<Vec<_>>();
        assert_eq!(words(Subject::Callback { signed: false }), ["pending", "unknown"]);
        assert!(has(Subject::Callback { signed: true }, "charged"));
    }

    #[test]
    fn the_first_rule_that_holds_decides() {
        let mut places = Places::new();
        let code = places.slot("/code").unwrap();
        let message = places.slot("/message").unwrap();
        let is = |at, text: &str| Condition { at, test: Test::Is(text.into()) };
        let has = |at, text: &str| Condition { at, test: Test::Has(text.into()) };
        let rules = [
            rule(&[403], vec![is(code, "DENIED"), has(message, "balance")], "declined:no_funds"),
            rule(&[403], vec![is(code, "DENIED")], "declined:barred"),
            rule(&[200, 201], vec![Condition { at: code, test: Test::Present(false) }], "charged"),
            rule(&[], vec![is(code, "7")], "declined:limit"),
            Rule { any_body: true, ..rule(&[429], vec![], "temporary:throttled") },
        ];
        let verdict = |status, body: &str| {
            let values = places.read(body.as_bytes()).ok();
            first(&rules, status, values.as_ref()).map(|rule| rule.then.word())
        };
        assert_eq!(verdict(403, r#"{"code":"DENIED","message":"low balance"}"#), Some("declined:no_funds"));
        assert_eq!(verdict(403, r#"{"code":"DENIED","message":"Balance"}"#), Some("declined:barred"));
        assert_eq!(verdict(403, r#"{"code":["DENIED"]}"#), None);
        assert_eq!(verdict(201, r#"{"code":null}"#), Some("charged"));
        assert_eq!(verdict(201, r#"{"code":0}"#), None);
        assert_eq!(verdict(500, r#"{"code":7}"#), Some("declined:limit"));
        // Without a readable body only the rule that takes any body holds, above all not "present = false".
        assert_eq!(verdict(201, "<html>"), None);
        assert_eq!(verdict(429, "<html>"), Some("temporary:throttled"));
        assert_eq!(verdict(429, "{}"), Some("temporary:throttled"));
    }
}
