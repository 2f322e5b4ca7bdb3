//! A telephone line's number: at most 15 digits, kept inline, masked wherever it is printed.

use std::fmt;

use thiserror::Error;

/// Digits of the longest number (E.164).
pub const DIGITS_MAX: usize = 15;

/// A number in international form without the plus sign. `Debug` shows a mask only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Msisdn {
    digits: [u8; DIGITS_MAX],
    len: u8,
}

/// What can be wrong with a number. The texts never show it.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum MsisdnError {
    /// Not 7 to 15 digits, or a leading zero.
    #[error("a number is 7 to 15 digits in international form, with or without a leading plus sign")]
    Form,
    /// Another country's number.
    #[error("the number does not begin with the carrier's prefix {prefix}")]
    Prefix {
        /// The prefix that was expected.
        prefix: Box<str>,
    },
    /// Too short or too long for this carrier.
    #[error("the number has {found} digits, the carrier's have {expected}")]
    Length {
        /// Digits that the carrier's numbers have.
        expected: u8,
        /// Digits that this one has.
        found: u8,
    },
}

impl Msisdn {
    /// The number of `34600000001` or `+34600000001`.
    ///
    /// # Errors
    /// [`MsisdnError::Form`] for anything else.
    pub fn parse(text: &str) -> Result<Self, MsisdnError> {
        let text = text.strip_prefix('+').unwrap_or(text).as_bytes();
        let well_formed = (7..=DIGITS_MAX).contains(&text.len())
            && text.iter().all(u8::is_ascii_digit)
            && text.first() != Some(&b'0');
        if !well_formed {
            return Err(MsisdnError::Form);
        }
        let mut digits = [0; DIGITS_MAX];
        digits.iter_mut().zip(text).for_each(|(place, digit)| *place = *digit);
        Ok(Self { digits, len: text.len() as u8 })
    }

    /// The digits, without a plus sign. For the wire and for encryption only: never for logs.
    #[must_use]
    pub fn digits(&self) -> &str {
        self.digits.get(..usize::from(self.len)).and_then(|d| std::str::from_utf8(d).ok()).unwrap_or("")
    }

    /// `+34…001`: the form for people.
    #[must_use]
    pub fn masked(&self) -> String {
        let digits = self.digits();
        format!("+{}…{}", &digits[..2], &digits[digits.len() - 3..])
    }
}

impl fmt::Debug for Msisdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

/// What a carrier's numbers look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MsisdnRule {
    /// Country calling code and, where needed, the first digits of the network.
    pub prefix: Box<str>,
    /// How many digits a number has, prefix included.
    pub digits: u8,
}

impl MsisdnRule {
    /// The number, when it is one of this carrier's.
    ///
    /// # Errors
    /// Every variant of [`MsisdnError`].
    pub fn check(&self, text: &str) -> Result<Msisdn, MsisdnError> {
        let msisdn = Msisdn::parse(text)?;
        if !msisdn.digits().starts_with(&*self.prefix) {
            return Err(MsisdnError::Prefix { prefix: self.prefix.clone() });
        }
        if msisdn.len != self.digits {
            return Err(MsisdnError::Length { expected: self.digits, found: msisdn.len });
        }
        Ok(msisdn)
    }

    /// A number of this form for examples: the prefix, zeros, a one.
    pub(crate) fn sample(&self) -> Option<Msisdn> {
        let zeros = usize::from(self.digits).checked_sub(self.prefix.len() + 1)?;
        Msisdn::parse(&format!("{}{}1", self.prefix, "0".repeat(zeros))).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_international_numbers_are_taken() {
        for bad in
            ["", "+", "123456", "0600000001", "+34 600000001", "1234567890123456", "3460000000x", "٣٤٦٠٠٠٠٠٠"]
        {
            assert_eq!(Msisdn::parse(bad), Err(MsisdnError::Form), "{bad}");
        }
        assert_eq!(Msisdn::parse("+34600000001").unwrap(), Msisdn::parse("34600000001").unwrap());
        assert_eq!(Msisdn::parse("123456789012345").unwrap().digits(), "123456789012345");
    }

    #[test]
    fn debug_shows_a_mask_only() {
        let shown = format!("{:?}", Msisdn::parse("34600123456").unwrap());
        assert_eq!(shown, "+34…456");
    }

    #[test]
    fn a_carrier_takes_only_its_own_numbers() {
        let rule = MsisdnRule { prefix: "216".into(), digits: 11 };
        assert!(rule.check("21620000001").is_ok());
        assert_eq!(rule.check("34600000001"), Err(MsisdnError::Prefix { prefix: "216".into() }));
        assert_eq!(rule.check("2162000000"), Err(MsisdnError::Length { expected: 11, found: 10 }));
        assert_eq!(rule.sample().unwrap().digits(), "21600000001");
    }
}
