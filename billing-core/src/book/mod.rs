//! The book: TOML files in, rules or problems out. Pure: text comes in as an argument.
//!
//! | file | read by |
//! |---|---|
//! | `config/plans/<id>.toml` | [`plan`] |
//! | `config/countries/<iso2>.toml` | [`countries`] |
//! | `config/engine.toml` | [`engine`] |
//! | `config/stories/<id>.toml` | [`story`]; expectations, no part of a version |
//! | `config/carriers/<id>.toml` | the carriers crate, with the same [`reader`]; here only its [`CarrierSummary`] |

pub mod countries;
pub mod diff;
pub mod engine;
pub mod plan;
pub mod story;

pub mod reader;

mod problem;
pub mod values;

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use sha2::{Digest, Sha256};

use self::countries::{CountryRules, read_country};
use self::engine::{EngineSettings, read_engine};
use self::plan::{plan_id, read_plan};
use self::reader::{Place, Problem, Problems, Source};
use self::values::excerpt;
use crate::calendar::CalendarRules;
use crate::money::Currency;
use crate::plan::PlanRules;
use crate::split::Fee;

/// One version of the book, checked as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// All plans, sorted by id.
    pub plans: Vec<PlanRules>,
    /// The rules of countries, sorted by code. A carrier's country may have none.
    pub countries: Vec<CountryRules>,
    /// How the engine runs.
    pub engine: EngineSettings,
    /// Names this version; see [`digest_of`].
    pub digest: [u8; 32],
}

/// What a carrier's file says of tax and fee at one price. What it leaves out is the plan's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarrierTariff {
    /// The price, minor units.
    pub price_minor: i64,
    /// The tax in it, percent of the net.
    pub tax_percent: Option<Decimal>,
    /// What the carrier keeps.
    pub fee: Option<Fee>,
}

/// What plans need to know of a carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrierSummary {
    /// Its id in the book.
    pub id: String,
    /// The country it works in: an ISO 3166 code of two capitals.
    pub country: String,
    /// When it can be reached and when it is preferred.
    pub calendar: CalendarRules,
    /// What it collects.
    pub currency: Currency,
    /// The smallest amount it takes, in minor units.
    pub min_minor: i64,
    /// The largest amount it takes, in minor units.
    pub max_minor: i64,
    /// The only amounts it takes, in minor units, ascending; empty: any between the smallest and the largest.
    pub price_points: Vec<i64>,
    /// Tax and fee at some of its prices, ascending by price.
    pub tariffs: Vec<CarrierTariff>,
    /// Whether it gives up its fee in what goes back.
    pub fee_returned: bool,
    /// How long an answer that comes later may take, seconds.
    pub final_deadline_s: u32,
    /// IANA names of the zones its subscribers live in.
    pub zones: Vec<String>,
}

impl Book {
    /// The book of all its sources, carriers' files included (they enter the digest), and of what the carriers
    /// crate read from those files.
    ///
    /// # Errors
    /// All problems of all files at once, sorted by file, line and column. A plan of a carrier that is not among
    /// `carriers` is one of them, so a caller whose carriers have problems shows those first.
    pub fn read(sources: &[Source], carriers: &[CarrierSummary]) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut plans = Vec::new();
        let mut file_of_plan = BTreeMap::new();
        let mut engine = None;
        let is_country = |source: &&Source| matches!(Kind::of(&source.file), Some(Kind::Country));
        let mut countries: Vec<CountryRules> = sources
            .iter()
            .filter(is_country)
            .filter_map(|source| read_country(source, &mut problems))
            .collect();
        countries.sort_by(|left, right| left.code.cmp(&right.code));
        for source in sources {
            match Kind::of(&source.file) {
                Some(Kind::Plan) => {
                    let id = plan_id(&source.file);
                    if let Some(other) = file_of_plan.insert(id, &source.file) {
                        let what = format!("{} gives a plan the same id", excerpt(other));
                        problems.push(source.problem(Place::START, what, "rename one of them"));
                    }
                    plans.extend(read_plan(source, carriers, &countries, &mut problems));
                }
                Some(Kind::Engine) if engine.is_none() => engine = Some(read_engine(source, &mut problems)),
                Some(Kind::Carrier | Kind::Country) => {}
                Some(Kind::Engine) => {
                    let what = "a second engine.toml";
                    problems.push(source.problem(Place::START, what, "keep one of them"));
                }
                None => {
                    let help = "plans are plans/<id>.toml, carriers carriers/<id>.toml, countries countries/<code>.toml, and there is engine.toml";
                    problems.push(source.problem(Place::START, "not a file of the book", help));
                }
            }
        }
        if file_of_plan.is_empty() {
            problems.push(no_plan());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        plans.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(Self { plans, countries, engine: engine.unwrap_or_default(), digest: digest_of(sources) })
    }

    /// The plan with this id.
    #[must_use]
    pub fn plan(&self, id: &str) -> Option<&PlanRules> {
        let index = self.plans.binary_search_by(|plan| plan.id.as_str().cmp(id)).ok()?;
        self.plans.get(index)
    }
}

/// SHA-256 over all sources in the sequence of their names: the length of the name (8 bytes, big-endian), the name,
/// the length of the text, the text. The sequence in which they are given does not matter.
#[must_use]
pub fn digest_of(sources: &[Source]) -> [u8; 32] {
    let mut sorted: Vec<&Source> = sources.iter().collect();
    sorted.sort_by(|left, right| (&left.file, &left.text).cmp(&(&right.file, &right.text)));
    let mut digest = Sha256::new();
    for part in sorted.iter().flat_map(|source| [&source.file, &source.text]) {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

/// What a file is, by its path.
enum Kind {
    Plan,
    Carrier,
    Country,
    Engine,
}

impl Kind {
    fn of(file: &str) -> Option<Self> {
        let mut parts = file.rsplit('/');
        let name = parts.next()?;
        let is_toml = name.ends_with(".toml");
        match parts.next() {
            Some("plans") if is_toml => Some(Self::Plan),
            Some("carriers") if is_toml => Some(Self::Carrier),
            Some("countries") if is_toml => Some(Self::Country),
            _ => (name == "engine.toml").then_some(Self::Engine),
        }
    }
}

fn no_plan() -> Problem {
    Problem {
        file: "config/plans".to_owned(),
        line: 1,
        column: 1,
        what: "the book has no plan".to_owned(),
        help: "write at least one config/plans/<id>.toml".to_owned(),
    }
}

#[cfg(test)]
mod tests;
