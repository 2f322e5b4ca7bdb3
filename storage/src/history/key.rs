//! The place of a row: ordered so that one subscription's month is one stretch, and neighbours share blocks.

/// The length of an encoded [`HistoryKey`] in bytes.
pub const KEY_BYTES: usize = 8 + 4 + 4 + 2 + 8;

/// Names one exchange. Deterministic: the same exchange written twice lands in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryKey {
    /// Whose.
    pub subscription_id: i64,
    /// The month of the period, as yyyymm.
    pub month: i32,
    /// The charge's period.
    pub period: i32,
    /// The attempt; 0 for exchanges beside an attempt.
    pub attempt_no: i16,
    /// The exchange within the attempt; beside an attempt the spool time in µs.
    pub seq: i64,
}

impl HistoryKey {
    /// The key as bytes whose order is the order of the keys: big-endian, the sign bit flipped.
    #[must_use]
    pub fn encode(&self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[0..8].copy_from_slice(&flip_i64(self.subscription_id).to_be_bytes());
        bytes[8..12].copy_from_slice(&flip_i32(self.month).to_be_bytes());
        bytes[12..16].copy_from_slice(&flip_i32(self.period).to_be_bytes());
        bytes[16..18].copy_from_slice(&(self.attempt_no ^ i16::MIN).to_be_bytes());
        bytes[18..26].copy_from_slice(&flip_i64(self.seq).to_be_bytes());
        bytes
    }

    /// The key that [`Self::encode`] wrote; `None` if `bytes` are not [`KEY_BYTES`] long.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<HistoryKey> {
        let bytes: &[u8; KEY_BYTES] = bytes.try_into().ok()?;
        Some(HistoryKey {
            subscription_id: flip_i64(i64::from_be_bytes(bytes[0..8].try_into().ok()?)),
            month: flip_i32(i32::from_be_bytes(bytes[8..12].try_into().ok()?)),
            period: flip_i32(i32::from_be_bytes(bytes[12..16].try_into().ok()?)),
            attempt_no: i16::from_be_bytes(bytes[16..18].try_into().ok()?) ^ i16::MIN,
            seq: flip_i64(i64::from_be_bytes(bytes[18..26].try_into().ok()?)),
        })
    }

    /// The lowest and the highest key of a subscription's months `month_from..=month_to`.
    #[must_use]
    pub(crate) fn bounds(subscription_id: i64, month_from: i32, month_to: i32) -> (HistoryKey, HistoryKey) {
        (
            HistoryKey {
                subscription_id,
                month: month_from,
                period: i32::MIN,
                attempt_no: i16::MIN,
                seq: i64::MIN,
            },
            HistoryKey {
                subscription_id,
                month: month_to,
                period: i32::MAX,
                attempt_no: i16::MAX,
                seq: i64::MAX,
            },
        )
    }
}

fn flip_i64(value: i64) -> i64 {
    value ^ i64::MIN
}

fn flip_i32(value: i32) -> i32 {
    value ^ i32::MIN
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = HistoryKey> {
        // Small numbers around zero make equal leading fields, and so deeper comparisons, likely.
        let narrow = (-2_i64..3, -2_i32..3, -2_i32..3, -2_i16..3, -2_i64..3);
        let wide = (any::<i64>(), any::<i32>(), any::<i32>(), any::<i16>(), any::<i64>());
        prop_oneof![narrow, wide].prop_map(|(subscription_id, month, period, attempt_no, seq)| HistoryKey {
            subscription_id,
            month,
            period,
            attempt_no,
            seq,
        })
    }

    proptest! {
        #[test]
        fn bytes_sort_as_keys_do_and_come_back(a in keys(), b in keys()) {
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
            prop_assert_eq!(HistoryKey::decode(&a.encode()), Some(a));
        }

        #[test]
        fn bounds_hold_exactly_the_months(key in keys(), from in -3_i32..4, to in -3_i32..4, other in -2_i64..3) {
            let (low, high) = HistoryKey::bounds(other, from, to);
            let inside = low <= key && key <= high;
            prop_assert_eq!(inside, key.subscription_id == other && from <= key.month && key.month <= to);
        }
    }

    #[test]
    fn other_lengths_are_no_keys() {
        assert_eq!(HistoryKey::decode(&[0; KEY_BYTES - 1]), None);
        assert_eq!(HistoryKey::decode(&[0; KEY_BYTES + 1]), None);
    }
}
