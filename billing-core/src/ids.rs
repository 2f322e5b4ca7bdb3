//! Identities and derived keys. No random ids on a money path: after a lost commit the same code must derive
//! the same key.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::outcome::Op;
use crate::period::{Period, PeriodError};

/// The highest attempt number that `our_ref` can carry.
pub const ATTEMPT_NO_MAX: i16 = 1_023;

/// Slices of one carrier: at most this many, a power of two.
pub const SLICES_MAX: u32 = 4_096;

/// What can be wrong with an identity.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum IdError {
    /// A text id of another form.
    #[error("{text:?} is not of the form {form}")]
    Unreadable {
        /// The text, cut to 64 characters.
        text: String,
        /// The expected form.
        form: &'static str,
    },
    /// The period inside the text is wrong.
    #[error(transparent)]
    Period(#[from] PeriodError),
    /// A number that the key cannot carry.
    #[error("attempt number {0} is outside 1 to 1023")]
    AttemptNo(i32),
    /// A carrier number, slice or sequence that the key cannot carry.
    #[error("carrier {carrier_no}, slice {slice}, sequence {sequence} do not fit into an id")]
    Shard {
        /// The carrier's number.
        carrier_no: i32,
        /// The slice of the carrier.
        slice: u32,
        /// The dense sequence in the shard.
        sequence: u32,
    },
}

/// `(carrier, slice)`: the unit of ownership; `carrier_no << 12 | slice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub i32);

impl Shard {
    /// The shard of a carrier's slice.
    ///
    /// # Errors
    /// [`IdError::Shard`] when a number does not fit.
    pub fn new(carrier_no: i32, slice: u32) -> Result<Self, IdError> {
        if !(1..1 << 18).contains(&carrier_no) || slice >= SLICES_MAX {
            return Err(IdError::Shard { carrier_no, slice, sequence: 0 });
        }
        Ok(Self(carrier_no << 12 | slice as i32))
    }

    /// The carrier's number.
    #[must_use]
    pub fn carrier_no(self) -> i32 {
        self.0 >> 12
    }

    /// The id of a dense sequence number in this shard; used for subscribers and subscriptions alike.
    #[must_use]
    pub fn id(self, sequence: u32) -> i64 {
        i64::from(self.0) << 32 | i64::from(sequence)
    }

    /// First and last id that belong to this shard.
    #[must_use]
    pub fn id_range(self) -> (i64, i64) {
        (self.id(0), self.id(u32::MAX))
    }
}

/// One subscriber on one plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub i64);

impl SubscriptionId {
    /// The shard that the subscription belongs to.
    #[must_use]
    pub fn shard(self) -> Shard {
        Shard((self.0 >> 32) as i32)
    }

    /// Seconds inside the due minute, by block of 64 ids: a mass import does not fall due in one second, and
    /// neighbours fall due together, so that a database page is written once.
    #[must_use]
    pub fn due_offset_s(self) -> i64 {
        let block = (self.0 as u64) >> 6;
        i64::from((block.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32 % 60)
    }

    /// The block of 64 neighbours that fall due together.
    #[must_use]
    pub fn block(self) -> u64 {
        (self.0 as u64) >> 6
    }
}

/// What is due for one period: its key, so it cannot exist twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChargeId {
    /// Whose charge it is.
    pub subscription: SubscriptionId,
    /// What it pays for.
    pub period: Period,
}

/// One request that can move money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The charge that it serves.
    pub charge: ChargeId,
    /// 1 to 1023, one counter per charge.
    pub attempt_no: i16,
}

/// 63 bits from which every key of a subscription is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefSeed(pub i64);

impl RefSeed {
    /// The seed and the full digest of the merchant's own reference: SHA-256 over length-prefixed merchant,
    /// reference and generation. A repeated sign-up gets the same keys; a move to another carrier raises the
    /// generation.
    #[must_use]
    pub fn derive(merchant: &str, reference: &str, generation: u32) -> (Self, [u8; 32]) {
        let mut hash = Sha256::new();
        for part in [merchant.as_bytes(), reference.as_bytes(), &generation.to_be_bytes()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        (Self((u64::from_be_bytes(head) >> 1) as i64), digest)
    }
}

/// Our key on the wire: `ref_seed` (63 bits), period (26), attempt number (10), reversible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OurRef(u128);

impl OurRef {
    /// The key of an attempt.
    ///
    /// # Errors
    /// [`IdError::AttemptNo`] outside of 1 to 1023.
    pub fn new(seed: RefSeed, period: Period, attempt_no: i16) -> Result<Self, IdError> {
        if !(1..=ATTEMPT_NO_MAX).contains(&attempt_no) {
            return Err(IdError::AttemptNo(i32::from(attempt_no)));
        }
        let seed = (seed.0 as u64 & (u64::MAX >> 1)) as u128;
        Ok(Self(seed << 36 | (period.number() as u128) << 10 | attempt_no as u128))
    }

    /// What the key was made of.
    ///
    /// # Errors
    /// [`IdError::Period`] when the bits hold no valid period, [`IdError::AttemptNo`] for attempt 0.
    pub fn parts(self) -> Result<(RefSeed, Period, i16), IdError> {
        let attempt_no = (self.0 & 0x3ff) as i16;
        if attempt_no == 0 {
            return Err(IdError::AttemptNo(0));
        }
        let period = Period::from_number((self.0 >> 10 & 0x3ff_ffff) as i32)?;
        Ok((RefSeed((self.0 >> 36) as i64), period, attempt_no))
    }

    /// 20 characters of base32hex (`0`-`9`, `A`-`V`), order-preserving.
    #[must_use]
    pub fn base32(self) -> [u8; 20] {
        let mut text = [b'0'; 20];
        for (i, place) in text.iter_mut().rev().enumerate() {
            *place = DIGITS[(self.0 >> (5 * i) & 31) as usize];
        }
        text
    }

    /// 30 decimal digits, for carriers that allow nothing else.
    #[must_use]
    pub fn digits(self) -> String {
        format!("{:030}", self.0)
    }

    /// The key of 20 base32hex characters or 30 digits.
    ///
    /// # Errors
    /// [`IdError::Unreadable`] for anything else.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let form = "20 base32hex characters or 30 digits";
        let unreadable = || IdError::Unreadable { text: text.chars().take(64).collect(), form };
        let value = match text.len() {
            20 => base32_value(text).ok_or_else(unreadable)?,
            30 if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().map_err(|_| unreadable())?,
            _ => return Err(unreadable()),
        };
        if value >> 99 != 0 {
            return Err(unreadable());
        }
        Ok(Self(value))
    }
}

impl fmt::Display for OurRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.base32()).unwrap_or_default())
    }
}

/// The digest of an attempt's money fields, kept with its intent: the same key with other money fields is a
/// hard error. First 16 bytes of SHA-256 over fixed-width fields.
#[must_use]
pub fn money_digest(
    attempt: AttemptId,
    op: Op,
    subscriber_id: i64,
    plan_no: i32,
    amount_minor: i64,
    currency: i16,
) -> [u8; 16] {
    let mut fields = [0_u8; 41];
    fields[..8].copy_from_slice(&attempt.charge.subscription.0.to_be_bytes());
    fields[8..12].copy_from_slice(&attempt.charge.period.number().to_be_bytes());
    fields[12..14].copy_from_slice(&attempt.attempt_no.to_be_bytes());
    fields[14] = op as u8;
    fields[15..23].copy_from_slice(&subscriber_id.to_be_bytes());
    fields[23..27].copy_from_slice(&plan_no.to_be_bytes());
    fields[27..35].copy_from_slice(&amount_minor.to_be_bytes());
    fields[35..37].copy_from_slice(&currency.to_be_bytes());
    fields[37..41].copy_from_slice(b"tb01");
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(fields)[..16]);
    short
}

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHIJKLMNOPQRSTUV";

fn base32_value(text: &str) -> Option<u128> {
    text.bytes().try_fold(0_u128, |value, b| {
        let digit = match b.to_ascii_uppercase() {
            b @ b'0'..=b'9' => b - b'0',
            b @ b'A'..=b'V' => b - b'A' + 10,
            _ => return None,
        };
        Some(value << 5 | u128::from(digit))
    })
}

fn write_id(f: &mut fmt::Formatter<'_>, id: i64) -> fmt::Result {
    for i in (0..13).rev() {
        let digit = DIGITS[((id as u64 >> (5 * i)) & 31) as usize].to_ascii_lowercase();
        f.write_fmt(format_args!("{}", char::from(digit)))?;
    }
    Ok(())
}

fn read_id(text: &str, form: &'static str) -> Result<SubscriptionId, IdError> {
    let unreadable = || IdError::Unreadable { text: text.chars().take(64).collect(), form };
    if text.len() != 13 {
        return Err(unreadable());
    }
    let value = base32_value(text).ok_or_else(unreadable)?;
    i64::try_from(value).map(SubscriptionId).map_err(|_| unreadable())
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sub_")?;
        write_id(f, self.0)
    }
}

impl FromStr for SubscriptionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        read_id(text.strip_prefix("sub_").unwrap_or(""), "sub_ and 13 characters")
    }
}

impl fmt::Display for ChargeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ch_")?;
        write_id(f, self.subscription.0)?;
        write!(f, "-{}", self.period)
    }
}

impl FromStr for ChargeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let form = "ch_, 13 characters, -, period (ch_0008000000003-20261121)";
        let rest = text.strip_prefix("ch_").unwrap_or("");
        let (id, period) = rest.split_once('-').unwrap_or(("", ""));
        Ok(Self { subscription: read_id(id, form)?, period: period.parse()? })
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("at_")?;
        write_id(f, self.charge.subscription.0)?;
        write!(f, "-{}-{}", self.charge.period, self.attempt_no)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ref_seed_is_length_prefixed() {
        assert_ne!(RefSeed::derive("ab", "c", 0).0, RefSeed::derive("a", "bc", 0).0);
        assert_ne!(RefSeed::derive("a", "b", 0).0, RefSeed::derive("a", "b", 1).0);
        assert_eq!(RefSeed::derive("a", "b", 0), RefSeed::derive("a", "b", 0));
    }

    #[test]
    fn every_money_field_changes_the_digest() {
        let period = Period::from_number(2_048).unwrap();
        let charge = ChargeId { subscription: SubscriptionId(7), period };
        let base = |attempt_no, subscriber, plan, amount, currency| {
            money_digest(AttemptId { charge, attempt_no }, Op::Charge, subscriber, plan, amount, currency)
        };
        let all = [
            base(1, 1, 1, 1, 978),
            base(2, 1, 1, 1, 978),
            base(1, 2, 1, 1, 978),
            base(1, 1, 2, 1, 978),
            base(1, 1, 1, 2, 978),
            base(1, 1, 1, 1, 788),
            money_digest(AttemptId { charge, attempt_no: 1 }, Op::Refund, 1, 1, 1, 978),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn hostile_ids_are_refused() {
        for text in ["", "ch_", "ch_zzzzzzzzzzzzz-20260101", "ch_0000000000001", "ch_é00000000000-20260101"]
        {
            assert!(text.parse::<ChargeId>().is_err(), "{text}");
        }
        assert!(OurRef::parse("VVVVVVVVVVVVVVVVVVVV").is_err());
        assert!(OurRef::parse(&"9".repeat(30)).is_err());
    }

    proptest! {
        #[test]
        fn our_ref_is_reversible(seed in 0..i64::MAX, days in 0..32_767_i32, attempt_no in 1..=ATTEMPT_NO_MAX) {
            let period = Period::starting(crate::period::date_of_days(days), 0).unwrap();
            let key = OurRef::new(RefSeed(seed), period, attempt_no).unwrap();
            prop_assert_eq!(key.parts().unwrap(), (RefSeed(seed), period, attempt_no));
            prop_assert_eq!(OurRef::parse(&key.to_string()).unwrap(), key);
            prop_assert_eq!(OurRef::parse(&key.digits()).unwrap(), key);
        }

        #[test]
        fn public_ids_round_trip(id in 0..i64::MAX, days in 0..32_767_i32) {
            let period = Period::starting(crate::period::date_of_days(days), 0).unwrap();
            let charge = ChargeId { subscription: SubscriptionId(id), period };
            prop_assert_eq!(charge.to_string().parse::<ChargeId>().unwrap(), charge);
            prop_assert_eq!(charge.subscription.to_string().parse::<SubscriptionId>().unwrap(), charge.subscription);
        }

        #[test]
        fn offsets_stay_inside_the_minute_and_blocks_together(id in 0..i64::MAX) {
            let offset = SubscriptionId(id).due_offset_s();
            prop_assert!((0..60).contains(&offset));
            prop_assert_eq!(SubscriptionId(id & !63).due_offset_s(), offset);
        }
    }
}
