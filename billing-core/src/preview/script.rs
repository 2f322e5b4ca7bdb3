//! Scripts: what a carrier answers, one request after the other, and what happens at which local time.

use jiff::civil::Date;
use rust_decimal::Decimal;

use crate::book::values::{duration_ms, excerpt, local_minute, minute_text, nearest};
use crate::money::{Currency, Money};
use crate::outcome::{Doubt, Fault, Hindrance, LimitKind, NotSentProof, Op, Outcome, Refusal};
use crate::zone::Zone;

/// The most answers of a script, repetitions counted.
pub const ANSWERS_MAX: usize = 1_000;
/// The most events of a script.
pub const EVENTS_MAX: usize = 64;
/// The longest script, bytes.
const TEXT_BYTES_MAX: usize = 16_384;

/// What the carrier answers, one request after the other. After the last it collects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script(Vec<Answer>);

/// One answer, and what becomes known later of a request that it leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What the carrier says at once.
    pub said: Said,
    /// The evidence on an open request, and how long after the answer it comes, seconds.
    pub later: Option<(Said, i64)>,
}

/// What a carrier says, as scripts write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It did what was asked, whatever that was.
    Done,
    /// It collected less than was asked: so many minor units.
    Part(i64),
    /// Anything else, by its word.
    Word(&'static str),
}

const DONE: &str = "charged";
const PART: &str = "partial";

const WORDS: [(&str, Outcome); 19] = [
    ("no_funds", Outcome::Declined(Refusal::NoFunds)),
    ("barred", Outcome::Declined(Refusal::Barred)),
    ("unknown_subscriber", Outcome::Declined(Refusal::UnknownSubscriber)),
    ("limit", Outcome::Declined(Refusal::Limit(LimitKind::PerCharge))),
    ("limit_day", Outcome::Declined(Refusal::Limit(LimitKind::Day))),
    ("limit_week", Outcome::Declined(Refusal::Limit(LimitKind::Week))),
    ("limit_month", Outcome::Declined(Refusal::Limit(LimitKind::Month))),
    ("limit_too_soon", Outcome::Declined(Refusal::Limit(LimitKind::TooSoon))),
    ("subscriber_refused", Outcome::Declined(Refusal::SubscriberRefused)),
    ("not_allowed", Outcome::Declined(Refusal::NotAllowed)),
    ("expired", Outcome::Declined(Refusal::Expired)),
    ("needs_consent", Outcome::NeedsConsent),
    ("throttled", Outcome::Temporary { why: Hindrance::Throttled, listed: true, after_ms: None }),
    ("temporary", Outcome::Temporary { why: Hindrance::Busy, listed: true, after_ms: None }),
    ("fault", Outcome::Fault { what: Fault::BadRequest, listed: true }),
    ("not_sent", Outcome::NotSent(NotSentProof::Connect)),
    ("accepted", Outcome::Pending),
    ("unknown", Outcome::Unknown(Doubt::NoReply)),
    ("absent", Outcome::Absent),
];

/// What is wrong with a script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {help}")]
pub struct ScriptError {
    /// The byte of the text at which it is.
    pub offset: usize,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub help: String,
}

impl ScriptError {
    fn new(offset: usize, what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { offset, what: what.into(), help: help.into() }
    }
}

impl Said {
    /// The outcome of a request that asked for so much.
    #[must_use]
    pub fn outcome(self, op: Op, asked_minor: i64) -> Outcome {
        match self {
            Self::Done => match op {
                Op::Charge | Op::Confirm | Op::Adopt => Outcome::Charged { amount_minor: asked_minor },
                Op::Reserve => Outcome::Reserved,
                Op::Cancel => Outcome::Released,
                Op::Refund => Outcome::Refunded { amount_minor: asked_minor },
            },
            Self::Part(amount_minor) => Outcome::Partial { amount_minor },
            Self::Word(word) => {
                let known = WORDS.iter().find(|(known, _)| *known == word);
                known.map_or(Outcome::Unknown(Doubt::Unlisted), |(_, outcome)| *outcome)
            }
        }
    }

    /// The word, without an amount.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => DONE,
            Self::Part(_) => PART,
            Self::Word(word) => word,
        }
    }

    fn parse(text: &str, offset: usize, currency: Currency) -> Result<Self, ScriptError> {
        let (word, amount) = text.split_once(' ').map_or((text, None), |(word, rest)| (word, Some(rest)));
        let no_amount = |said| match amount {
            None => Ok(said),
            Some(_) => Err(ScriptError::new(
                offset,
                format!("{word} does not take {}", excerpt(text)),
                format!("only {PART} has an amount"),
            )),
        };
        if word == DONE {
            return no_amount(Self::Done);
        }
        if let Some((word, _)) = WORDS.iter().find(|(known, _)| *known == word) {
            return no_amount(Self::Word(word));
        }
        if word == PART {
            let minor = amount.and_then(|amount| minor_of(amount, currency)).filter(|minor| *minor > 0);
            return minor.map(Self::Part).ok_or_else(|| {
                ScriptError::new(
                    offset,
                    format!("{} has no amount of {}", excerpt(text), currency.code()),
                    format!("such as \"{PART} 0.20\""),
                )
            });
        }
        let all = || WORDS.iter().map(|(word, _)| *word).chain([DONE, PART]);
        let help = match nearest(word, all()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("one of {}", all().collect::<Vec<_>>().join(", ")),
        };
        Err(ScriptError::new(offset, format!("no carrier says {:?}", excerpt(word)), help))
    }
}

/// Minor units of a decimal amount, with no more decimals than the currency has.
fn minor_of(text: &str, currency: Currency) -> Option<i64> {
    let amount = text.trim().parse::<Decimal>().ok()?;
    Money::from_decimal(amount, currency).ok().map(|money| money.minor)
}

impl Script {
    /// Reads `"no_funds x2, partial 0.20, unknown then charged after 3h, charged"`: answers with commas between them,
    /// each with a repetition or with what becomes known later.
    ///
    /// # Errors
    /// [`ScriptError`] with the place of the first mistake.
    pub fn parse(text: &str, currency: Currency) -> Result<Self, ScriptError> {
        if text.len() > TEXT_BYTES_MAX {
            let what = format!("the script has {} bytes", text.len());
            return Err(ScriptError::new(0, what, format!("at most {TEXT_BYTES_MAX} are read")));
        }
        let mut answers = Vec::new();
        let mut offset = 0;
        for piece in text.split(',') {
            let at = offset + (piece.len() - piece.trim_start().len());
            offset += piece.len() + 1;
            let piece = piece.trim();
            if piece.is_empty() {
                // An empty script, or a comma at its end.
                continue;
            }
            let (answer, times) = answer(piece, at, currency)?;
            if answers.len() + times > ANSWERS_MAX {
                let help = format!("at most {ANSWERS_MAX} answers are read");
                return Err(ScriptError::new(at, "the script is too long", help));
            }
            answers.extend(std::iter::repeat_n(answer, times));
        }
        Ok(Self(answers))
    }

    /// The answer to a request, counted from 0.
    #[must_use]
    pub fn answer(&self, request: usize) -> Answer {
        self.0.get(request).cloned().unwrap_or(Answer { said: Said::Done, later: None })
    }

    /// All answers.
    #[must_use]
    pub fn answers(&self) -> &[Answer] {
        &self.0
    }
}

fn answer(piece: &str, at: usize, currency: Currency) -> Result<(Answer, usize), ScriptError> {
    let (first, later) = match piece.split_once(" then ") {
        None => (piece, None),
        Some((first, rest)) => {
            let rest_at = at + first.len() + " then ".len();
            let help = "such as \"unknown then charged after 3h\"";
            let (word, delay) = rest
                .rsplit_once(" after ")
                .ok_or_else(|| ScriptError::new(rest_at, "it does not say when", help))?;
            let seconds = duration_ms(delay.trim()).map(|ms| ms / 1_000);
            let seconds =
                seconds.filter(|seconds| (1..=366 * 86_400).contains(seconds)).ok_or_else(|| {
                    ScriptError::new(rest_at, format!("{:?} is no delay", excerpt(delay)), help)
                })?;
            (first, Some((Said::parse(word.trim(), rest_at, currency)?, seconds)))
        }
    };
    let first = first.trim();
    let repeated = first.rsplit_once(" x").and_then(|(word, times)| Some((word, times.parse().ok()?)));
    let (word, times) = repeated.unwrap_or((first, 1));
    if times == 0 || times > ANSWERS_MAX {
        let help = format!("x1 to x{ANSWERS_MAX}");
        return Err(ScriptError::new(at, format!("{times} repetitions"), help));
    }
    let said = Said::parse(word.trim(), at, currency)?;
    if later.is_some() && !matches!(said, Said::Word("unknown" | "accepted")) {
        let what = format!("after {} nothing becomes known later", said.word());
        return Err(ScriptError::new(at, what, "only unknown and accepted leave a request open"));
    }
    Ok((Answer { said, later }, times))
}

/// Something that happens at a local time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The local date.
    pub date: Date,
    /// The local minute of the day.
    pub minute: u16,
    /// What happens.
    pub what: Happens,
}

/// What can happen besides the carrier's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happens {
    /// The subscriber says stop.
    Stop,
    /// A top-up is announced.
    TopUp,
    /// The subscription is paused, until a local date or until it is resumed.
    Pause(Option<Date>),
    /// The subscription is resumed.
    Resume,
    /// The subscriber moves to another zone.
    Zone(Zone),
    /// From now on the carrier says that the balance is so much, minor units.
    Balance(i64),
    /// Nothing runs until this local time: an outage of ours.
    Outage(Date, u16),
    /// The carrier is known not to answer until this local time.
    Breaker(Date, u16),
}

const EVENT_HELP: &str = "such as \"2026-12-05 10:00 top_up\"; stop, top_up, pause, pause until 2026-12-20, resume, \
                          zone Europe/Madrid, balance 0.350, outage until 2026-12-08 10:00, breaker until 2026-12-05 12:00";

impl Event {
    /// Reads `"2026-12-05 10:00 top_up"`.
    ///
    /// # Errors
    /// [`ScriptError`] with what would be right.
    pub fn parse(text: &str, currency: Currency) -> Result<Self, ScriptError> {
        let wrong = || ScriptError::new(0, format!("{:?} is no event", excerpt(text)), EVENT_HELP);
        let mut parts = text.splitn(3, ' ');
        let (date, time, what) = (parts.next(), parts.next(), parts.next().ok_or_else(wrong)?);
        let (date, minute) = local(date, time).ok_or_else(wrong)?;
        let words: Vec<&str> = what.split_whitespace().collect();
        let happens = match words.as_slice() {
            ["stop"] => Happens::Stop,
            ["top_up"] => Happens::TopUp,
            ["pause"] => Happens::Pause(None),
            ["pause", "until", day] => Happens::Pause(Some(day.parse().map_err(|_| wrong())?)),
            ["resume"] => Happens::Resume,
            ["zone", name] => {
                let zone = Zone::named(name);
                Happens::Zone(zone.map_err(|error| ScriptError::new(0, error.to_string(), EVENT_HELP))?)
            }
            ["balance", amount] => Happens::Balance(minor_of(amount, currency).ok_or_else(wrong)?),
            ["outage", "until", date, time] => {
                let (date, minute) = local(Some(date), Some(time)).ok_or_else(wrong)?;
                Happens::Outage(date, minute)
            }
            ["breaker", "until", date, time] => {
                let (date, minute) = local(Some(date), Some(time)).ok_or_else(wrong)?;
                Happens::Breaker(date, minute)
            }
            _ => return Err(wrong()),
        };
        Ok(Self { date, minute, what: happens })
    }

    /// Reads a list, which must follow the local clock.
    ///
    /// # Errors
    /// The index of the first bad one, and what is wrong with it.
    pub fn parse_all<'t>(
        texts: impl IntoIterator<Item = &'t str>,
        currency: Currency,
    ) -> Result<Vec<Self>, (usize, ScriptError)> {
        let mut events: Vec<Self> = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            let event = Self::parse(text, currency).map_err(|error| (index, error))?;
            if events.last().is_some_and(|last| (last.date, last.minute) > (event.date, event.minute)) {
                let what = "this event is earlier than the one before it";
                return Err((index, ScriptError::new(0, what, "write them in the sequence of time")));
            }
            if index >= EVENTS_MAX {
                let help = format!("at most {EVENTS_MAX}");
                return Err((index, ScriptError::new(0, "too many events", help)));
            }
            events.push(event);
        }
        Ok(events)
    }
}

fn local(date: Option<&str>, time: Option<&str>) -> Option<(Date, u16)> {
    Some((date?.parse().ok()?, local_minute(time?)?))
}

impl std::fmt::Display for Happens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stop => f.write_str("the subscriber says stop"),
            Self::TopUp => f.write_str("a top-up is announced"),
            Self::Pause(None) => f.write_str("pause"),
            Self::Pause(Some(until)) => write!(f, "pause until {until}"),
            Self::Resume => f.write_str("resume"),
            Self::Zone(zone) => write!(f, "the subscriber moves to {}", zone.name()),
            Self::Balance(minor) => write!(f, "the balance becomes {minor} minor units"),
            Self::Outage(date, minute) => write!(f, "nothing runs until {date} {}", minute_text(*minute)),
            Self::Breaker(date, minute) => {
                write!(f, "the carrier is out of reach until {date} {}", minute_text(*minute))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tnd() -> Currency {
        Currency::from_code("TND").unwrap()
    }

    #[test]
    fn answers_repeat_and_end_in_success() {
        let script =
            Script::parse("no_funds x2, partial 0.200, unknown then charged after 3h", tnd()).unwrap();
        let words: Vec<_> = (0..6).map(|n| script.answer(n).said.word()).collect();
        assert_eq!(words, ["no_funds", "no_funds", "partial", "unknown", "charged", "charged"]);
        assert_eq!(script.answer(2).said, Said::Part(200));
        assert_eq!(script.answer(3).later, Some((Said::Done, 10_800)));
        assert_eq!(Script::parse("", tnd()), Ok(Script::default()));
    }

    #[test]
    fn mistakes_have_a_place_and_a_help() {
        for (text, offset, help) in [
            ("charged, no_fund", 9, "did you mean no_funds?"),
            ("partial", 0, "such as"),
            ("partial 0.0001", 0, "such as"),
            ("charged 0.200", 0, "only partial"),
            ("charged, unknown then charged", 22, "such as"),
            ("no_funds then charged after 3h", 0, "leave a request open"),
            ("no_funds x0", 0, "x1 to"),
            ("no_funds x1001", 0, "x1 to"),
            ("no_funds x999, charged x9", 15, "at most"),
        ] {
            let error = Script::parse(text, tnd()).unwrap_err();
            assert_eq!(error.offset, offset, "{text}: {error}");
            assert!(error.help.contains(help), "{text}: {error}");
        }
        assert!(Script::parse(&"a".repeat(TEXT_BYTES_MAX + 1), tnd()).is_err());
    }

    #[test]
    fn every_word_is_an_outcome_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for (word, outcome) in WORDS {
            assert!(seen.insert(outcome), "{word}");
            assert_eq!(Said::parse(word, 0, tnd()).unwrap().outcome(Op::Charge, 5), outcome);
        }
    }

    #[test]
    fn events_are_read_in_the_sequence_of_time() {
        let texts = [
            "2026-12-05 10:00 top_up",
            "2026-12-05 10:00 pause until 2026-12-20",
            "2026-12-06 00:00 zone Europe/Madrid",
            "2026-12-07 24:00 balance 0.350",
            "2026-12-08 09:00 outage until 2026-12-09 09:00",
        ];
        assert_eq!(Event::parse_all(texts, tnd()).unwrap().len(), 5);
        for bad in [
            "",
            "2026-12-05 stop",
            "2026-12-05 25:00 stop",
            "2026-12-05 10:00 dance",
            "2026-12-05 10:00 zone Moon",
        ] {
            assert!(Event::parse(bad, tnd()).is_err(), "{bad}");
        }
        let back = ["2026-12-05 10:00 stop", "2026-12-05 09:59 resume"];
        assert_eq!(Event::parse_all(back, tnd()).unwrap_err().0, 1);
    }
}
