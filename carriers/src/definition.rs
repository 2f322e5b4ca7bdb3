//! A carrier's definition: everything the engine knows about one carrier, read from one TOML file and checked
//! before any traffic. The files in `config/carriers/` explain each key where it stands.

mod auth;
mod checks;
mod operation;
mod read;

use std::path::PathBuf;
use std::sync::Arc;

use billing_core::book::CarrierSummary;
use billing_core::book::reader::{Problems, Source};
use billing_core::calendar::CalendarRules;
use billing_core::zone::Zone;
use zeroize::Zeroizing;

use crate::adapter::Caps;
use crate::dialect::Operation;
use crate::msisdn::MsisdnRule;
use crate::secrets::Secrets;
pub(crate) use auth::Auth;

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
    /// What it can prove about attempts whose answer was lost.
    pub proof: ProofCaps,
    /// When its lane should pause by itself.
    pub breaker: Breaker,
    pub(crate) link: LinkSettings,
    pub(crate) auth: Auth,
    pub(crate) charge: Arc<Operation>,
    pub(crate) body_bytes_max: usize,
    examples: Vec<checks::Example>,
    /// Every secret as it came; masks are made of them.
    secrets: Vec<Zeroizing<String>>,
}

/// What a carrier can prove. Left out, each has the worst value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProofCaps {
    /// The same request may be sent again.
    pub repeat: Option<RepeatCap>,
    /// The carrier can be asked what became of an attempt.
    pub inquiry: Option<InquiryCap>,
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

    /// Every secret in each form that it may have on the wire.
    pub(crate) fn each_secret(&self, mut take: impl FnMut(&[u8])) {
        self.secrets.iter().for_each(|secret| take(secret.as_bytes()));
        self.auth.wire_forms().for_each(&mut take);
        let headers = self.charge.headers.iter().map(|(_, template)| template);
        let templates = headers.chain([&self.charge.path]).chain(&self.charge.body);
        templates.flat_map(|template| template.secrets()).for_each(&mut take);
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
mod tests;
