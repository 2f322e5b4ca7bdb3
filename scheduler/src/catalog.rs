//! The book as the engine uses it: rules, zones and numbers, looked up by the numbers in the rows.

use std::collections::HashMap;
use std::sync::Arc;

use billing_core::money::Currency;
use billing_core::plan::PlanRules;
use billing_core::zone::{Zone, ZoneError};
use storage::mutants::{Mutant, on};
use storage::pg::Names;

/// A plan with its numbers.
#[derive(Debug)]
pub struct CatalogPlan {
    /// Its number.
    pub plan_no: i32,
    /// The carrier's number.
    pub carrier_no: i32,
    /// Its rules.
    pub rules: PlanRules,
    /// What the subscriber reads.
    pub text: Arc<str>,
}

/// Everything of the book that the hot path looks up.
#[derive(Debug)]
pub struct Catalog {
    /// Numbers of everything that the book names.
    pub names: Names,
    plans: HashMap<i32, CatalogPlan>,
    zones: HashMap<i16, Zone>,
}

impl Catalog {
    /// The catalog of a book's plans under the database's numbers.
    ///
    /// # Errors
    /// [`ZoneError`] when the database knows a zone that the rules do not.
    pub fn new(plans: &[PlanRules], names: Names) -> Result<Self, ZoneError> {
        let plans = plans
            .iter()
            .filter_map(|rules| {
                let plan_no = *names.plans.get(&rules.id)?;
                let (carrier_no, ..) = *names.carriers.get(&rules.carrier)?;
                let text = Arc::from(rules.text.as_str());
                Some((plan_no, CatalogPlan { plan_no, carrier_no, rules: rules.clone(), text }))
            })
            .collect();
        let in_utc = on(Mutant::PeriodByUtcDay);
        let name_of = |name| if in_utc { "Africa/Abidjan" } else { name };
        let zones = names.zones.iter().map(|(name, no)| Ok((*no, Zone::named(name_of(name))?)));
        let zones = zones.collect::<Result<_, ZoneError>>()?;
        Ok(Self { names, plans, zones })
    }

    /// The plan of a number.
    #[must_use]
    pub fn plan(&self, plan_no: i32) -> Option<&CatalogPlan> {
        self.plans.get(&plan_no)
    }

    /// Every plan.
    pub fn plans(&self) -> impl Iterator<Item = &CatalogPlan> {
        self.plans.values()
    }

    /// The zone of a number.
    #[must_use]
    pub fn zone(&self, zone_no: i16) -> Option<&Zone> {
        self.zones.get(&zone_no)
    }

    /// The currency of a number, when it is the plan's own.
    #[must_use]
    pub fn currency(plan: &CatalogPlan, numeric: i16) -> Option<Currency> {
        let currency = plan.rules.price.currency;
        (currency.numeric() == numeric).then_some(currency)
    }
}
