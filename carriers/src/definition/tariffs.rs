//! `[[tariffs]]`: what tax and fee are at one price of the carrier, as its contract lists them.

use billing_core::book::CarrierTariff;
use billing_core::book::reader::{Problems, Table};
use billing_core::book::values::opt_percent;
use billing_core::money::Currency;
use billing_core::split::{Fee, Shares};

use super::read::clip;
use crate::dialect::amount::read_decimal;

/// The most tariffs of a carrier: as many as it may have price points.
pub(super) const TARIFFS_MAX: usize = 500;

/// What a price must be.
pub(super) struct Prices<'a> {
    pub(super) currency: Currency,
    pub(super) min_minor: i64,
    pub(super) max_minor: i64,
    /// Empty: any between the two.
    pub(super) points: &'a [i64],
}

/// The tariffs, ascending by price.
pub(super) fn read_tariffs(
    tables: Vec<Table<'_>>,
    prices: Option<&Prices<'_>>,
    problems: &mut Problems,
) -> Vec<CarrierTariff> {
    let mut tariffs: Vec<CarrierTariff> = Vec::new();
    for table in tables {
        let last = tariffs.last().map(|tariff| tariff.price_minor);
        tariffs.extend(read_tariff(table, prices, last, problems));
    }
    tariffs
}

fn read_tariff(
    mut table: Table<'_>,
    prices: Option<&Prices<'_>>,
    last: Option<i64>,
    problems: &mut Problems,
) -> Option<CarrierTariff> {
    let price = table.str("price", problems);
    let tax = opt_percent(&mut table, "tax_percent", problems);
    let percent = opt_percent(&mut table, "carrier_fee_percent", problems);
    let fee = table.opt_str("carrier_fee", problems);
    // Without a currency no amount can be read: the rest would only repeat that.
    let read = prices.zip(price).and_then(|(prices, price)| {
        let decimals = prices.currency.exponent();
        let help = match read_decimal(&price, decimals).filter(|minor| *minor > 0) {
            None => format!("more than 0, with at most {decimals} decimals, in quotes"),
            Some(minor) if last.is_some_and(|last| minor <= last) => {
                "write tariffs ascending by price, each price once".to_owned()
            }
            Some(minor) if !(prices.min_minor..=prices.max_minor).contains(&minor) => {
                "write a price from `limits.min` to `limits.max`".to_owned()
            }
            Some(minor) if !prices.points.is_empty() && prices.points.binary_search(&minor).is_err() => {
                "write one of `limits.price_points`".to_owned()
            }
            Some(minor) => return Some((minor, decimals)),
        };
        table.problem_at(price.place, format!("`price` is {:?}", clip(&price)), help, problems);
        None
    });
    let fixed = fee.as_ref().and_then(|fee| {
        let (price_minor, decimals) = read?;
        // Not negative by what can be read at all.
        let minor = read_decimal(fee, decimals);
        let after_tax = |shares: Shares| price_minor - shares.split(price_minor).tax_minor;
        let most =
            Shares::new(tax.flatten().unwrap_or_default(), Default::default()).map_or(price_minor, after_tax);
        let fits = minor.filter(|minor| *minor <= most);
        if fits.is_none() {
            let what = format!("`carrier_fee` is {:?}", clip(fee));
            let help = format!(
                "from 0 to what is left of the price after tax, with at most {decimals} decimals, in quotes"
            );
            table.problem_at(fee.place, what, help, problems);
        }
        Some(Fee::At { fee_minor: fits?, price_minor })
    });
    if table.has("carrier_fee") && table.has("carrier_fee_percent") {
        let help = "keep one: an amount, or percent of what is left after tax";
        table.problem("carrier_fee", "`carrier_fee` beside `carrier_fee_percent`", help, problems);
    }
    if !["tax_percent", "carrier_fee_percent", "carrier_fee"].iter().any(|key| table.has(key)) {
        let help = "write `tax_percent`, `carrier_fee` or `carrier_fee_percent`";
        table.problem("price", "a tariff without tax and fee", help, problems);
    }
    let wants_fixed = fee.is_some();
    table.finish(problems);
    let (price_minor, _) = read?;
    let fee = if wants_fixed { Some(fixed?) } else { percent?.map(Fee::Percent) };
    Some(CarrierTariff { price_minor, tax_percent: tax?, fee })
}
