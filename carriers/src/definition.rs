//! A carrier's definition: everything the engine knows about one carrier, read from one TOML file and checked
//! before any traffic. The files in `config/carriers/` explain each key where it stands.

mod auth;
mod callback;
mod checks;
mod file;
mod further;
mod operation;
mod proof;
mod read;
mod tariffs;

use std::path::PathBuf;
use std::sync::Arc;

use billing_core::book::reader::{Problems, Source};
use billing_core::book::{CarrierSummary, CarrierTariff};
use billing_core::calendar::CalendarRules;
use billing_core::outcome::Op;
use billing_core::zone::Zone;
use zeroize::Zeroizing;

use crate::adapter::{Attempt, Caps, ExchangeKind};
use crate::callback::Acknowledgement;
use crate::dialect::Operation;
use crate::file::FileRules;
use crate::msisdn::MsisdnRule;
use crate::secrets::Secrets;
pub(crate) use auth::Auth;
pub(crate) use callback::CallbackRules;

/// One carrier, ready to make an adapter of.
pub struct CarrierDefinition {
    /// Its id in the book: lower-case letters, digits and `_`; also the file's name.
    pub id: Box<str>,
    /// What people call it.
    pub name: Box<str>,
    /// ISO 3166 alpha-2 code.
    pub country: Box<str>,
    /// When it can be reached and when its subscribers are paid.
    pub calendar: CalendarRules,
    /// The zones its subscribers live in; the first is the default.
    pub zones: Vec<Zone>,
    /// What its numbers look like.
    pub msisdn: MsisdnRule,
    /// Into how many shards its subscribers are cut: a power of two.
    pub slices: u32,
    /// What it can do and how much of it.
    pub caps: Caps,
    /// The only amounts it takes, minor units, ascending; empty: any within its limits.
    pub price_points: Vec<i64>,
    /// Tax and fee at some of its prices, ascending by price.
    pub tariffs: Vec<CarrierTariff>,
    /// Whether it gives up its fee in what goes back.
    pub fee_returned: bool,
    /// What it can prove about attempts whose answer was lost.
    pub proof: Proof,
    /// When its lane should pause by itself.
    pub breaker: Breaker,
    pub(crate) link: LinkSettings,
    pub(crate) auth: Auth,
    pub(crate) charge: Arc<Operation>,
    /// Every table that makes requests, the charge among them.
    pub(crate) spoken: Vec<(Arc<Operation>, For)>,
    pub(crate) callback: Option<CallbackRules>,
    pub(crate) file: Option<FileRules>,
    pub(crate) body_bytes_max: usize,
    examples: Vec<checks::Example>,
    /// Every secret as it came; masks are made of them.
    secrets: Vec<Zeroizing<String>>,
}

/// What a table of requests is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Op(Op),
    Inquiry,
    Balance,
}

impl For {
    /// What the exchange of an attempt needs.
    pub(crate) fn of(attempt: &Attempt) -> Self {
        match attempt.kind {
            ExchangeKind::Send | ExchangeKind::Resend => Self::Op(attempt.op),
            ExchangeKind::Inquiry => Self::Inquiry,
            ExchangeKind::Balance => Self::Balance,
        }
    }

    fn op(self) -> Option<Op> {
        match self {
            Self::Op(op) => Some(op),
            Self::Inquiry | Self::Balance => None,
        }
    }
}

/// What a carrier can prove about an attempt whose answer was lost. Left out, each has the worst value. People are
/// the last means of every carrier, so they are not listed here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof {
    /// A: the same request may be sent again.
    pub repeat: Option<RepeatCap>,
    /// B: the carrier can be asked what became of an attempt.
    pub inquiry: Option<InquiryCap>,
    /// C: the carrier tells by itself, and its sender can be known.
    pub callback: Option<CallbackCap>,
    /// D: what is absent from a complete file was not applied.
    pub file: Option<FileCap>,
}

/// A way to settle an attempt whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Means {
    /// A: send the same request again.
    Repeat,
    /// C: wait for the carrier's message.
    Callback,
    /// B: ask.
    Inquiry,
    /// D: wait for the carrier's file.
    File,
    /// E: a case for people.
    People,
}

impl Proof {
    /// The ways that this carrier offers, in the sequence in which they are tried; the last is always people.
    #[must_use]
    pub fn means(&self) -> Vec<Means> {
        let offered = [
            (self.repeat.is_some(), Means::Repeat),
            (self.callback.is_some(), Means::Callback),
            (self.inquiry.is_some(), Means::Inquiry),
            (self.file.is_some(), Means::File),
            (true, Means::People),
        ];
        offered.into_iter().filter_map(|(offered, means)| offered.then_some(means)).collect()
    }
}

/// The carrier sends what became of an attempt, signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackCap {
    /// After so long without a message the next means is used, seconds from the last write on.
    pub deadline_s: u32,
}

/// The carrier's files are complete: absence from them proves that nothing was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCap {
    /// How long after the last write an attempt may still show up in a file, seconds.
    pub settle_s: u32,
}

/// A repeat with the same key does not charge twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatCap {
    /// The field that makes it so.
    pub key: Box<str>,
    /// How long the carrier remembers keys, seconds.
    pub window_s: u32,
    /// How long before the end of the window repeats stop, seconds.
    pub margin_s: u32,
}

/// The carrier answers questions about attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InquiryCap {
    /// By which key it is asked.
    pub by: InquiryKey,
    /// How long after the last write "not found" begins to count, seconds.
    pub settle_s: u32,
    /// How many equal answers "not found" needs.
    pub agree: u8,
    /// How far apart they are, seconds.
    pub spacing_s: u32,
}

/// A key that an inquiry can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InquiryKey {
    /// Our key.
    OurRef,
    /// The carrier's id, known only when an answer brought it.
    CarrierTxnId,
}

/// When a lane should pause by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Share of unknown outcomes that opens it, percent.
    pub unknown_share_percent: u8,
    /// Over how long the share is taken, milliseconds.
    pub window_ms: u32,
    /// How long it stays open, milliseconds.
    pub open_for_ms: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { unknown_share_percent: 50, window_ms: 10_000, open_for_ms: 30_000 }
    }
}

/// Where and how the link connects.
#[derive(Debug, Clone)]
pub(crate) struct LinkSettings {
    pub(crate) base: Box<str>,
    pub(crate) allow_plain: bool,
    pub(crate) allow_private: bool,
    pub(crate) ca_file: Option<PathBuf>,
}

impl CarrierDefinition {
    /// Reads and checks one file. `None` when it has problems; all of them are then in `problems`.
    pub fn read(source: &Source, secrets: &dyn Secrets, problems: &mut Problems) -> Option<Self> {
        let before = problems.len();
        let definition = read::read(source, secrets, problems)?;
        (problems.len() == before).then_some(definition)
    }

    /// What plans need to know of the carrier.
    #[must_use]
    pub fn summary(&self) -> CarrierSummary {
        CarrierSummary {
            id: self.id.to_string(),
            country: self.country.to_string(),
            calendar: self.calendar.clone(),
            currency: self.caps.currency,
            min_minor: self.caps.min_minor,
            max_minor: self.caps.max_minor,
            price_points: self.price_points.clone(),
            tariffs: self.tariffs.clone(),
            fee_returned: self.fee_returned,
            final_deadline_s: self.caps.final_deadline_s,
            zones: self.zones.iter().map(|zone| zone.name().to_owned()).collect(),
        }
    }

    /// Bytes that look like this carrier's exchanges: a request and the answers of the examples, the most frequent
    /// last. The same definition gives the same bytes, so they can serve as a compression dictionary; keep them
    /// with what they compressed, since another definition gives others. Holds no secret.
    #[must_use]
    pub fn dictionary(&self) -> Vec<u8> {
        checks::dictionary(self)
    }

    /// What to answer a callback that was stored; `None` when the carrier sends none.
    #[must_use]
    pub fn acknowledgement(&self) -> Option<&Acknowledgement> {
        self.callback.as_ref().map(|callback| &callback.acknowledgement)
    }

    /// Whether the sender of its callbacks is known by a signature; `None` when it sends none. What is not signed is a
    /// hint, whatever it says.
    #[must_use]
    pub fn signs_callbacks(&self) -> Option<bool> {
        self.callback.as_ref().map(CallbackRules::is_signed)
    }

    /// Every secret in each form that it may have on the wire.
    pub(crate) fn each_secret(&self, mut take: impl FnMut(&[u8])) {
        self.secrets.iter().for_each(|secret| take(secret.as_bytes()));
        self.auth.wire_forms().for_each(&mut take);
        for (operation, _) in &self.spoken {
            let headers = operation.headers.iter().map(|(_, template)| template);
            let templates = headers.chain([&operation.path]).chain(&operation.body);
            templates.flat_map(|template| template.secrets()).for_each(&mut take);
        }
    }

    /// The table of requests for something.
    pub(crate) fn operation(&self, what: For) -> Option<&Operation> {
        self.spoken.iter().find(|(_, known)| *known == what).map(|(operation, _)| &**operation)
    }
}

/// Shows what is not secret.
impl std::fmt::Debug for CarrierDefinition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CarrierDefinition")
            .field("id", &self.id)
            .field("country", &self.country)
            .field("zones", &self.zones)
            .field("caps", &self.caps)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod further_tests;
#[cfg(test)]
mod tests;
