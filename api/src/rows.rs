//! Sealed rows of the history on the wire, between two processes of this project.
//!
//! `TBR1`, one byte (1 when there are more rows than were asked for or fit), the count (u32), then each row as its key
//! ([`HistoryKey::encode`]), its length (u32) and its bytes. Big-endian; nothing follows the last row.

use storage::history::{HistoryKey, KEY_BYTES, ROW_BYTES_MAX, SealedRow};

/// The most rows of one answer.
pub const HISTORY_ROWS_MAX: usize = 4_096;
/// The most bytes of one answer, unless its first row alone is larger.
pub const HISTORY_BYTES_MAX: usize = 32 * 1024 * 1024;

const MAGIC: &[u8; 4] = b"TBR1";
const HEAD_BYTES: usize = MAGIC.len() + 1 + 4;
const ROW_HEAD_BYTES: usize = KEY_BYTES + 4;

/// Rows of one subscription, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryAnswer {
    /// The first rows of what was asked for, still sealed.
    pub rows: Vec<SealedRow>,
    /// Whether there are more: ask for fewer months at a time.
    pub more: bool,
}

/// The answer's bytes. Rows that do not fit into `bytes_max` are left off, never the first one.
pub(crate) fn encode(mut answer: HistoryAnswer, bytes_max: usize) -> Vec<u8> {
    let mut total = HEAD_BYTES;
    let fit = answer.rows.iter().take_while(|row| {
        let first = total == HEAD_BYTES;
        total += ROW_HEAD_BYTES + row.bytes.len();
        first || total <= bytes_max
    });
    let count = fit.count();
    if count < answer.rows.len() {
        answer.rows.truncate(count);
        answer.more = true;
    }
    let mut out = Vec::with_capacity(
        HEAD_BYTES + answer.rows.iter().map(|row| ROW_HEAD_BYTES + row.bytes.len()).sum::<usize>(),
    );
    out.extend_from_slice(MAGIC);
    out.push(u8::from(answer.more));
    out.extend_from_slice(&(answer.rows.len() as u32).to_be_bytes());
    for row in answer.rows {
        out.extend_from_slice(&row.key.encode());
        out.extend_from_slice(&(row.bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(&row.bytes);
    }
    out
}

/// The answer of its bytes; what is wrong with them otherwise.
pub(crate) fn decode(mut bytes: &[u8]) -> Result<HistoryAnswer, &'static str> {
    if take(&mut bytes, MAGIC.len())? != MAGIC {
        return Err("it does not begin as an answer of the history does");
    }
    let more = match take(&mut bytes, 1)? {
        [0] => false,
        [1] => true,
        _ => return Err("the mark for more rows is neither 0 nor 1"),
    };
    let count = take_u32(&mut bytes)?;
    if count > HISTORY_ROWS_MAX {
        return Err("it announces more rows than an answer may have");
    }
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let key = HistoryKey::decode(take(&mut bytes, KEY_BYTES)?).ok_or("a key is damaged")?;
        let length = take_u32(&mut bytes)?;
        if length > ROW_BYTES_MAX {
            return Err("a row is larger than any store takes");
        }
        rows.push(SealedRow { key, bytes: take(&mut bytes, length)?.to_vec() });
    }
    if bytes.is_empty() { Ok(HistoryAnswer { rows, more }) } else { Err("bytes follow the last row") }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], &'static str> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or("it ends early")?;
    *bytes = rest;
    Ok(taken)
}

fn take_u32(bytes: &mut &[u8]) -> Result<usize, &'static str> {
    let number: [u8; 4] = take(bytes, 4)?.try_into().map_err(|_| "it ends early")?;
    Ok(u32::from_be_bytes(number) as usize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rows(lengths: &[usize]) -> Vec<SealedRow> {
        let key = |seq| HistoryKey { subscription_id: -7, month: 202_611, period: 3, attempt_no: 1, seq };
        (0..)
            .zip(lengths)
            .map(|(seq, length)| SealedRow { key: key(seq), bytes: vec![seq as u8; *length] })
            .collect()
    }

    #[test]
    fn answers_come_back() {
        for (lengths, more) in [(&[][..], false), (&[0, 1, 300], true), (&[65_536], false)] {
            let answer = HistoryAnswer { rows: rows(lengths), more };
            assert_eq!(decode(&encode(answer.clone(), HISTORY_BYTES_MAX)), Ok(answer));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_off_and_said_but_never_the_first_row() {
        let answer = |lengths: &[usize]| HistoryAnswer { rows: rows(lengths), more: false };
        let exactly_two = HEAD_BYTES + 2 * ROW_HEAD_BYTES + 30;
        for (bytes_max, kept) in [(exactly_two + 1, 2), (exactly_two, 2), (exactly_two - 1, 1), (1, 1)] {
            let cut = decode(&encode(answer(&[10, 20, 30]), bytes_max)).unwrap();
            assert_eq!(cut, HistoryAnswer { rows: rows(&[10, 20, 30][..kept]), more: true }, "{bytes_max}");
        }
        assert!(!decode(&encode(answer(&[10, 20]), exactly_two)).unwrap().more);
    }

    #[test]
    fn damaged_answers_are_refused() {
        let good = encode(HistoryAnswer { rows: rows(&[3, 4]), more: false }, HISTORY_BYTES_MAX);
        for cut in 0..good.len() {
            assert!(decode(&good[..cut]).is_err(), "{cut}");
        }
        let with = |place: usize, byte: u8| {
            let mut bad = good.clone();
            bad[place] = byte;
            decode(&bad)
        };
        assert!(decode(&[&good[..], &[0]].concat()).is_err(), "longer");
        assert!(with(0, b'X').is_err(), "magic");
        assert!(with(4, 2).is_err(), "mark");
        assert!(with(5, 0xff).is_err(), "count");
        assert!(with(HEAD_BYTES + KEY_BYTES, 0xff).is_err(), "length");
    }
}
