//! Amounts as text and back, by integer arithmetic alone: a float never touches money.

/// Appends `minor` units of a currency with `exponent` decimals as a decimal number with `decimals` decimals.
/// `false` (and nothing appended) when the amount is negative or would lose a digit.
pub(crate) fn push_decimal(minor: i64, exponent: u32, decimals: u32, out: &mut Vec<u8>) -> bool {
    let Ok(minor) = u64::try_from(minor) else { return false };
    // Only what the text keeps is written; what it drops must be zero.
    let dropped = 10_u64.pow(exponent.saturating_sub(decimals));
    if minor % dropped != 0 {
        return false;
    }
    let kept = exponent.min(decimals);
    let (value, unit) = (minor / dropped, 10_u64.pow(kept));
    push_integer(value / unit, out);
    if decimals > 0 {
        out.push(b'.');
        let mut fraction = itoa::Buffer::new();
        let fraction = fraction.format(value % unit);
        if kept > 0 {
            out.extend(std::iter::repeat_n(b'0', kept as usize - fraction.len()));
            out.extend_from_slice(fraction.as_bytes());
        }
        out.extend(std::iter::repeat_n(b'0', (decimals - kept) as usize));
    }
    true
}

/// Appends a whole number.
pub(crate) fn push_integer(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The exact value of a JSON number or of a decimal text, in units of `10^-exponent`. `None` when it is negative,
/// not a number, not exact in those units, or beyond 63 bits.
pub(crate) fn read_decimal(text: &str, exponent: u32) -> Option<i64> {
    let (mantissa, power) = match text.split_once(['e', 'E']) {
        // A power beyond this cannot give an amount; the bound keeps the loop below short.
        Some((mantissa, power)) => (mantissa, power.parse::<i32>().ok().filter(|power| power.abs() <= 18)?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits_only = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let dangling = mantissa.contains('.') && fraction.is_empty();
    if whole.is_empty() || dangling || !digits_only(whole) || !digits_only(fraction) || text.len() > 64 {
        return None;
    }
    let mut value: i64 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        value = value.checked_mul(10)?.checked_add(i64::from(digit - b'0'))?;
    }
    let mut shift = i32::try_from(exponent).ok()? + power - i32::try_from(fraction.len()).ok()?;
    while shift > 0 && value != 0 {
        value = value.checked_mul(10)?;
        shift -= 1;
    }
    while shift < 0 && value != 0 {
        if value % 10 != 0 {
            return None;
        }
        value /= 10;
        shift += 1;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(minor: i64, exponent: u32, decimals: u32) -> Option<String> {
        let mut out = Vec::new();
        push_decimal(minor, exponent, decimals, &mut out).then(|| String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn decimals_are_written_exactly() {
        let cases = [
            (199, 2, 2, Some("1.99")),
            (5, 2, 2, Some("0.05")),
            (0, 2, 2, Some("0.00")),
            (199, 2, 3, Some("1.990")),
            (1_500, 3, 2, Some("1.50")),
            (1_505, 3, 2, None),
            (120, 0, 0, Some("120")),
            (120, 0, 2, Some("120.00")),
            (100, 2, 0, Some("1")),
            (-1, 2, 2, None),
            (i64::MAX, 2, 2, Some("92233720368547758.07")),
        ];
        for (minor, exponent, decimals, expected) in cases {
            assert_eq!(
                written(minor, exponent, decimals).as_deref(),
                expected,
                "{minor} {exponent} {decimals}"
            );
        }
    }

    #[test]
    fn decimals_are_read_exactly_or_not_at_all() {
        let good = [
            ("1.99", 199),
            ("1.990", 199),
            ("0.05", 5),
            ("2", 200),
            ("1.99e0", 199),
            ("199e-2", 199),
            ("0.0199E+2", 199),
            ("0", 0),
            ("0e18", 0),
        ];
        for (text, expected) in good {
            assert_eq!(read_decimal(text, 2), Some(expected), "{text}");
        }
        let bad = [
            "",
            "-1.99",
            "+1.99",
            "1.999",
            "1,99",
            "1.",
            ".99",
            "1.9.9",
            " 1.99",
            "1.99 ",
            "1e99",
            "1e",
            "x",
            "NaN",
            "0x10",
            "99999999999999999999",
            "١.٩٩",
        ];
        for text in bad {
            assert_eq!(read_decimal(text, 2), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(minor in 0..i64::MAX, exponent in 0..5_u32, decimals in 0..7_u32) {
            if let Some(text) = written(minor, exponent, decimals) {
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), true);
                let back = read_decimal(&text, exponent);
                // Padding may push the digits beyond 63 bits: then nothing is read, never something else.
                prop_assert!(back == Some(minor) || (back.is_none() && minor > i64::MAX / 1_000_000));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}", exponent in 0..5_u32) {
            let _ = read_decimal(&text, exponent);
        }
    }
}
