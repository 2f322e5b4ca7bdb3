//! What becomes of a collected amount: the tax in it, what the carrier keeps, what the merchant is owed. The parts
//! always sum to the whole; each is rounded half to even, and what rounding leaves over is the merchant's.

use rust_decimal::{Decimal, RoundingStrategy};
use thiserror::Error;

/// The most decimals of a rate.
pub const RATE_DECIMALS_MAX: u32 = 4;

/// What the carrier keeps of what remains after tax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fee {
    /// So many percent of it.
    Percent(Decimal),
    /// A fixed amount at one price; of any other amount as much as that is of the price.
    At {
        /// What it keeps, minor units.
        fee_minor: i64,
        /// Of which price, minor units, above 0.
        price_minor: i64,
    },
}

/// Tax and the carrier's fee in an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    tax_percent: Decimal,
    fee: Fee,
}

/// Tax and fee at one price point of a carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tariff {
    /// The price, minor units.
    pub price_minor: i64,
    /// What is in it.
    pub shares: Shares,
}

/// The parts of an amount, minor units, none of them negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The tax that the price includes.
    pub tax_minor: i64,
    /// What the carrier keeps.
    pub carrier_fee_minor: i64,
    /// What the merchant is owed.
    pub merchant_minor: i64,
}

/// A rate that is none.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("{0} % is not between 0 and 100 with at most 4 decimals")]
pub struct RateError(pub Decimal);

impl Shares {
    /// Everything is the merchant's.
    pub const NONE: Self = Self { tax_percent: Decimal::ZERO, fee: Fee::Percent(Decimal::ZERO) };

    /// Rates in percent: of the tax on the net price that the price includes (19 % of 100 are in a price of 119), and
    /// of the carrier's fee on what remains after tax.
    ///
    /// # Errors
    /// [`RateError`] for a rate outside of 0 to 100, or with more than 4 decimals.
    pub fn new(tax_percent: Decimal, carrier_fee_percent: Decimal) -> Result<Self, RateError> {
        Self::with_fee(tax_percent, Fee::Percent(carrier_fee_percent))
    }

    /// The same with a fee of either kind. A fixed fee above what is left after tax keeps all of that.
    ///
    /// # Errors
    /// As [`Shares::new`].
    pub fn with_fee(tax_percent: Decimal, fee: Fee) -> Result<Self, RateError> {
        let fee_percent = match fee {
            Fee::Percent(rate) => rate,
            Fee::At { .. } => Decimal::ZERO,
        };
        for rate in [tax_percent, fee_percent] {
            let fine = (Decimal::ZERO..=Decimal::ONE_HUNDRED).contains(&rate)
                && rate.normalize().scale() <= RATE_DECIMALS_MAX;
            if !fine {
                return Err(RateError(rate));
            }
        }
        Ok(Self { tax_percent, fee })
    }

    /// Whether the merchant gets everything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.tax_percent.is_zero()
            && match self.fee {
                Fee::Percent(rate) => rate.is_zero(),
                Fee::At { fee_minor, .. } => fee_minor <= 0,
            }
    }

    /// The parts of a collected amount of whole minor units; a negative amount counts as 0.
    #[must_use]
    pub fn split(&self, amount_minor: i64) -> Parts {
        let amount_minor = amount_minor.max(0);
        let gross = Decimal::ONE_HUNDRED + self.tax_percent;
        let tax_minor = portion(amount_minor, self.tax_percent, gross);
        let after_tax_minor = amount_minor - tax_minor;
        let carrier_fee_minor = match self.fee {
            Fee::Percent(rate) => portion(after_tax_minor, rate, Decimal::ONE_HUNDRED),
            Fee::At { fee_minor, price_minor } => {
                portion(amount_minor, Decimal::from(fee_minor), Decimal::from(price_minor))
                    .min(after_tax_minor)
            }
        };
        Parts { tax_minor, carrier_fee_minor, merchant_minor: after_tax_minor - carrier_fee_minor }
    }
}

/// `amount × part ÷ whole`, half to even, within 0 and the amount. 19 digits times 7 fit into a decimal's 28; where two
/// amounts are multiplied that do not, the quotient is taken first.
fn portion(amount_minor: i64, part: Decimal, whole: Decimal) -> i64 {
    let amount = Decimal::from(amount_minor);
    let exact = match amount.checked_mul(part) {
        Some(product) => product.checked_div(whole),
        None => part.checked_div(whole).and_then(|share| amount.checked_mul(share)),
    };
    let exact = exact.unwrap_or(Decimal::ZERO);
    let rounded = exact.round_dp_with_strategy(0, RoundingStrategy::MidpointNearestEven);
    i64::try_from(rounded).unwrap_or(0).clamp(0, amount_minor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn shares(tax: &str, fee: &str) -> Shares {
        Shares::new(tax.parse().unwrap(), fee.parse().unwrap()).unwrap()
    }

    #[test]
    fn parts_as_an_accountant_counts_them() {
        let parts = |tax, fee, amount| {
            let parts = shares(tax, fee).split(amount);
            (parts.tax_minor, parts.carrier_fee_minor, parts.merchant_minor)
        };
        assert_eq!(parts("19", "0", 119), (19, 0, 100));
        assert_eq!(parts("19", "30", 119), (19, 30, 70));
        assert_eq!(parts("0", "0", 500), (0, 0, 500));
        assert_eq!(parts("0", "100", 500), (0, 500, 0));
        // 25 × 10 % = 2.5 and 35 × 10 % = 3.5: halves go to the even neighbour.
        assert_eq!((parts("0", "10", 25), parts("0", "10", 35)), ((0, 2, 23), (0, 4, 31)));
        assert_eq!(parts("19", "30", 1), (0, 0, 1), "the remainder is the merchant's");
        assert_eq!(parts("19", "30", 0), (0, 0, 0));
        assert_eq!(parts("19", "30", -5), (0, 0, 0));
    }

    #[test]
    fn a_fixed_fee_is_exact_at_its_price_and_in_proportion_elsewhere() {
        let at = |fee_minor, price_minor, amount| {
            let fee = Fee::At { fee_minor, price_minor };
            let parts = Shares::with_fee("19".parse().unwrap(), fee).unwrap().split(amount);
            (parts.tax_minor, parts.carrier_fee_minor, parts.merchant_minor)
        };
        assert_eq!(at(45, 119, 119), (19, 45, 55));
        assert_eq!(at(45, 119, 238), (38, 90, 110));
        // 60 × 45 ÷ 119 = 22.69
        assert_eq!(at(45, 119, 60), (10, 23, 27));
        assert_eq!(at(119, 119, 119), (19, 100, 0), "never more than what is left after tax");
        assert_eq!(at(0, 119, 119), (19, 0, 100));
        assert_eq!(at(45, 0, 119), (19, 0, 100), "no price, no fee, no panic");
        let huge = at(i64::MAX - 1, i64::MAX, i64::MAX);
        assert_eq!(i128::from(huge.0) + i128::from(huge.1) + i128::from(huge.2), i128::from(i64::MAX));
    }

    #[test]
    fn rates_have_limits() {
        for (rate, fine) in [
            ("0", true),
            ("100", true),
            ("7.7000", true),
            ("0.00010", true),
            ("100.1", false),
            ("-1", false),
            ("0.00001", false),
        ] {
            let rate: Decimal = rate.parse().unwrap();
            assert_eq!(Shares::new(rate, Decimal::ZERO).is_ok(), fine, "tax {rate}");
            assert_eq!(Shares::new(Decimal::ZERO, rate).is_ok(), fine, "fee {rate}");
        }
        assert!(Shares::NONE.is_none() && !shares("0", "1").is_none() && !shares("1", "0").is_none());
        let fixed =
            |fee_minor| Shares::with_fee(Decimal::ZERO, Fee::At { fee_minor, price_minor: 10 }).unwrap();
        assert!(fixed(0).is_none() && !fixed(1).is_none());
    }

    proptest! {
        #[test]
        fn parts_sum_to_the_whole_and_none_is_negative(
            amount in 0..=i64::MAX, tax in 0..=1_000_000_i64, fee in 0..=1_000_000_i64
        ) {
            let shares = Shares::new(Decimal::new(tax, 4), Decimal::new(fee, 4)).unwrap();
            let parts = shares.split(amount);
            prop_assert!(parts.tax_minor >= 0 && parts.carrier_fee_minor >= 0 && parts.merchant_minor >= 0);
            let sum = i128::from(parts.tax_minor) + i128::from(parts.carrier_fee_minor) + i128::from(parts.merchant_minor);
            prop_assert_eq!(sum, i128::from(amount));
        }

        #[test]
        fn so_they_do_with_fixed_fees(
            amount in 0..=i64::MAX, tax in 0..=1_000_000_i64, fee_minor in 0..=i64::MAX, price_minor in 1..=i64::MAX
        ) {
            let shares = Shares::with_fee(Decimal::new(tax, 4), Fee::At { fee_minor, price_minor }).unwrap();
            let parts = shares.split(amount);
            prop_assert!(parts.tax_minor >= 0 && parts.carrier_fee_minor >= 0 && parts.merchant_minor >= 0);
            let sum = i128::from(parts.tax_minor) + i128::from(parts.carrier_fee_minor) + i128::from(parts.merchant_minor);
            prop_assert_eq!(sum, i128::from(amount));
        }

        #[test]
        fn parts_are_within_half_a_unit_of_the_exact_ones(
            amount in 0..=1_000_000_000_000_i64, tax in 0..=1_000_000_i64, fee in 0..=1_000_000_i64
        ) {
            let parts = Shares::new(Decimal::new(tax, 4), Decimal::new(fee, 4)).unwrap().split(amount);
            // In ten-thousandths of a percent, so that everything is whole: |2 × part × whole − 2 × exact| ≤ whole.
            let near = |part: i64, of: i64, rate: i64, whole: i64| {
                let difference = i128::from(part) * i128::from(whole) - i128::from(of) * i128::from(rate);
                2 * difference.abs() <= i128::from(whole)
            };
            prop_assert!(near(parts.tax_minor, amount, tax, 1_000_000 + tax));
            prop_assert!(near(parts.carrier_fee_minor, amount - parts.tax_minor, fee, 1_000_000));
        }
    }
}
