//! Money: whole minor units with their currency, checked everywhere.
//!
//! `rust_decimal` appears only at the edges (parsing, formatting, wire formats) and for rates. A float never
//! touches money.

use rust_decimal::{Decimal, RoundingStrategy};
use thiserror::Error;

/// An ISO 4217 currency. Its exponent says how many decimals the minor unit has (JPY 0, EUR 2, TND 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// The currency of an upper-case alphabetic ISO 4217 code such as `EUR`.
    ///
    /// # Errors
    /// [`MoneyError::UnknownCurrency`] when ISO 4217 has no such code, or the code has no minor unit (`XAU`).
    pub fn from_code(code: &str) -> Result<Self, MoneyError> {
        let unknown = || MoneyError::UnknownCurrency(code.chars().take(8).collect());
        let currency = iso_currency::Currency::from_code(code).ok_or_else(unknown)?;
        currency.exponent().map(|_| Self(currency)).ok_or_else(unknown)
    }

    /// The currency of a numeric ISO 4217 code, as the database keeps it.
    ///
    /// # Errors
    /// [`MoneyError::UnknownCurrency`] as for [`Currency::from_code`].
    pub fn from_numeric(numeric: i16) -> Result<Self, MoneyError> {
        let unknown = || MoneyError::UnknownCurrency(numeric.to_string());
        let numeric = u16::try_from(numeric).map_err(|_| unknown())?;
        let currency = iso_currency::Currency::from_numeric(numeric).ok_or_else(unknown)?;
        currency.exponent().map(|_| Self(currency)).ok_or_else(unknown)
    }

    /// The numeric ISO 4217 code (at most 999).
    #[must_use]
    pub fn numeric(self) -> i16 {
        i16::try_from(self.0.numeric()).unwrap_or(i16::MAX)
    }

    /// The alphabetic ISO 4217 code.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// How many decimals the minor unit has: 0 to 4.
    #[must_use]
    pub fn exponent(self) -> u32 {
        u32::from(self.0.exponent().unwrap_or(0))
    }
}

/// What can be wrong with an amount.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum MoneyError {
    /// ISO 4217 does not list this code.
    #[error("unknown currency {0:?}: an ISO 4217 code such as EUR, TND or JPY is expected")]
    UnknownCurrency(String),
    /// Two currencies met in one sum.
    #[error("{left} and {right} cannot be added")]
    CurrencyMismatch {
        /// Code of the left side.
        left: &'static str,
        /// Code of the right side.
        right: &'static str,
    },
    /// The result does not fit into 63 bits of minor units.
    #[error("amount out of range")]
    Overflow,
    /// More decimals than the currency has.
    #[error("{amount} has more than the {exponent} decimals of {currency}")]
    TooPrecise {
        /// The amount as given.
        amount: Decimal,
        /// Decimals that the currency has.
        exponent: u32,
        /// The currency's code.
        currency: &'static str,
    },
}

/// An amount in whole minor units of one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// Whole minor units (cents, millimes, yen); negative only in differences.
    pub minor: i64,
    /// The currency of `minor`.
    pub currency: Currency,
}

impl Money {
    /// An amount of whole minor units.
    #[must_use]
    pub fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// The exact amount of a decimal number of major units.
    ///
    /// # Errors
    /// [`MoneyError::TooPrecise`] when the currency has fewer decimals, [`MoneyError::Overflow`] beyond 63 bits.
    pub fn from_decimal(amount: Decimal, currency: Currency) -> Result<Self, MoneyError> {
        let exponent = currency.exponent();
        let normal = amount.normalize();
        if normal.scale() > exponent {
            return Err(MoneyError::TooPrecise { amount, exponent, currency: currency.code() });
        }
        let factor = Decimal::from(10_i64.pow(exponent));
        let minor = normal.checked_mul(factor).ok_or(MoneyError::Overflow)?;
        let minor = i64::try_from(minor.trunc().mantissa() / 10_i128.pow(minor.trunc().scale()))
            .map_err(|_| MoneyError::Overflow)?;
        Ok(Self { minor, currency })
    }

    /// An amount as people write it: digits with at most one point between them, such as `0.300`; `None` for anything else
    /// and for more decimals than the currency has.
    #[must_use]
    pub fn from_text(text: &str, currency: Currency) -> Option<Self> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let amount = digits.then(|| Decimal::from_str_exact(text).ok())??;
        Self::from_decimal(amount, currency).ok()
    }

    /// The amount in major units, with exactly the currency's decimals.
    #[must_use]
    pub fn to_decimal(self) -> Decimal {
        Decimal::new(self.minor, self.currency.exponent())
    }

    /// Sum of two amounts of one currency.
    ///
    /// # Errors
    /// [`MoneyError::CurrencyMismatch`] or [`MoneyError::Overflow`].
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_add(other.minor).ok_or(MoneyError::Overflow)?;
        Ok(Self { minor, currency: self.currency })
    }

    /// Difference of two amounts of one currency.
    ///
    /// # Errors
    /// [`MoneyError::CurrencyMismatch`] or [`MoneyError::Overflow`].
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_sub(other.minor).ok_or(MoneyError::Overflow)?;
        Ok(Self { minor, currency: self.currency })
    }

    /// A rate of this amount (a fee, a tax), rounded half to even; the remainder stays with the caller.
    ///
    /// # Errors
    /// [`MoneyError::Overflow`] when the product leaves the range.
    pub fn share(self, rate: Decimal) -> Result<Self, MoneyError> {
        let exact = Decimal::from(self.minor).checked_mul(rate).ok_or(MoneyError::Overflow)?;
        let rounded = exact.round_dp_with_strategy(0, RoundingStrategy::MidpointNearestEven);
        let minor = i64::try_from(rounded.mantissa()).map_err(|_| MoneyError::Overflow)?;
        Ok(Self { minor, currency: self.currency })
    }

    fn same_currency(self, other: Self) -> Result<(), MoneyError> {
        if self.currency == other.currency {
            return Ok(());
        }
        Err(MoneyError::CurrencyMismatch { left: self.currency.code(), right: other.currency.code() })
    }
}

impl std::fmt::Display for Money {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.to_decimal(), self.currency.code())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn money(text: &str, code: &str) -> Result<Money, MoneyError> {
        Money::from_decimal(text.parse().unwrap(), Currency::from_code(code).unwrap())
    }

    #[test]
    fn exponents_of_iso_4217_are_kept() {
        assert_eq!(money("120", "JPY").unwrap().minor, 120);
        assert_eq!(money("1.99", "EUR").unwrap().minor, 199);
        assert_eq!(money("1.5", "TND").unwrap().minor, 1_500);
        assert_eq!(money("1.5", "TND").unwrap().to_string(), "1.500 TND");
        assert!(matches!(money("1.5", "JPY"), Err(MoneyError::TooPrecise { .. })));
        assert!(matches!(money("1.999", "EUR"), Err(MoneyError::TooPrecise { .. })));
        assert!(Currency::from_code("EURO").is_err());
        assert!(Currency::from_code("XAU").is_err());
    }

    #[test]
    fn sums_are_checked() {
        let eur = money("1.00", "EUR").unwrap();
        let tnd = money("1.000", "TND").unwrap();
        assert!(matches!(eur.checked_add(tnd), Err(MoneyError::CurrencyMismatch { .. })));
        let big = Money::new(i64::MAX, eur.currency);
        assert_eq!(big.checked_add(eur), Err(MoneyError::Overflow));
        assert_eq!(Money::new(i64::MIN, eur.currency).checked_sub(eur), Err(MoneyError::Overflow));
    }

    #[test]
    fn shares_round_half_to_even() {
        let rate = Decimal::new(5, 1);
        let share = |minor| Money::new(minor, Currency::from_code("EUR").unwrap()).share(rate).unwrap().minor;
        assert_eq!((share(1), share(3), share(5)), (0, 2, 2));
    }

    proptest! {
        #[test]
        fn decimals_round_trip(minor in any::<i64>(), code in prop::sample::select(vec!["JPY", "EUR", "TND"])) {
            let amount = Money::new(minor, Currency::from_code(code).unwrap());
            prop_assert_eq!(Money::from_decimal(amount.to_decimal(), amount.currency).unwrap(), amount);
            prop_assert_eq!(Currency::from_numeric(amount.currency.numeric()).unwrap(), amount.currency);
        }
    }
}
