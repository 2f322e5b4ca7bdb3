//! Amounts, read from their digits; no float anywhere.

use bytes::{BufMut, BytesMut};
use iso_currency::Currency;

/// No carrier charges more than this many digits of minor units at once.
const DIGITS_MAX: usize = 15;
/// CAMARA allows multiples of 0.001; a currency with more decimals of its own keeps them.
const DECIMALS_MAX: usize = 3;

/// How many decimals the minor unit of an ISO 4217 code has (JPY 0, EUR 2, TND 3); `None` for an unknown code.
pub(super) fn exponent_of(code: &str) -> Option<u32> {
    Currency::from_code(code)?.exponent().map(u32::from)
}

/// Minor units of a plain decimal like `1.99`. `None` for a sign, an exponent, zero, a part of a minor unit, or too many digits.
pub(super) fn minor_of(text: &str, exponent: u32) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let exponent = exponent as usize;
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole)
        || !plain(decimals)
        || decimals.len() > DECIMALS_MAX.max(exponent)
        || whole.len() > DIGITS_MAX
    {
        return None;
    }
    let (kept, beyond) = decimals.split_at(exponent.min(decimals.len()));
    if beyond.bytes().any(|b| b != b'0') {
        return None;
    }
    let padding = std::iter::repeat_n(b'0', exponent - kept.len());
    let minor = whole
        .bytes()
        .chain(kept.bytes())
        .chain(padding)
        .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    (1..10_u64.pow(DIGITS_MAX as u32)).contains(&minor).then_some(minor)
}

/// Writes minor units as a decimal in major units: 1500 with exponent 3 is `1.500`.
pub(super) fn push_major(out: &mut BytesMut, minor: u64, exponent: u32) {
    let unit = 10_u64.saturating_pow(exponent);
    push_u64(out, minor / unit);
    if exponent > 0 {
        out.put_u8(b'.');
        push_padded(out, minor % unit, exponent as usize);
    }
}

/// Writes a number in decimal.
pub(super) fn push_u64(out: &mut BytesMut, number: u64) {
    push_padded(out, number, 1);
}

/// Writes a number in decimal with at least `width` digits (at most 20).
pub(super) fn push_padded(out: &mut BytesMut, number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut rest = number;
    let mut start = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        start = at;
        if rest == 0 {
            break;
        }
    }
    out.put_slice(digits.get(start.min(digits.len().saturating_sub(width))..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_exactly_what_the_digits_say() {
        for (text, exponent, minor) in [
            ("1.99", 2, 199),
            ("1.990", 2, 199),
            ("2", 2, 200),
            ("0.01", 2, 1),
            ("1.5", 3, 1500),
            ("120", 0, 120),
            ("120.0", 0, 120),
            ("9007199254740.93", 2, 900_719_925_474_093),
        ] {
            assert_eq!(minor_of(text, exponent), Some(minor), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e2",
            "1e999",
            "1.2345",
            "1.999",
            "0",
            "0.00",
            "1 ",
            "1,5",
            "NaN",
            "１",
            "9999999999999999",
            "99999999999999999999999999",
        ] {
            assert_eq!(minor_of(text, 2), None, "{text}");
        }
        assert_eq!(minor_of("1.5", 0), None);
    }

    #[test]
    fn writes_what_it_read() {
        for (minor, exponent, text) in [
            (199, 2, "1.99"),
            (5, 2, "0.05"),
            (1500, 3, "1.500"),
            (120, 0, "120"),
            (u64::MAX, 0, "18446744073709551615"),
        ] {
            let mut out = BytesMut::new();
            push_major(&mut out, minor, exponent);
            assert_eq!(&out[..], text.as_bytes());
        }
        let mut out = BytesMut::new();
        push_padded(&mut out, 42, 12);
        assert_eq!(&out[..], b"000000000042");
    }

    #[test]
    fn knows_the_exponents() {
        assert_eq!(
            ["JPY", "EUR", "TND", "XXQ", "eur", ""].map(exponent_of),
            [Some(0), Some(2), Some(3), None, None, None]
        );
    }
}
