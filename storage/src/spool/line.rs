//! The bytes of the log: a header per segment and lines of fixed width, little-endian, each with its own checksum.

use std::io;
use std::time::{Duration, SystemTime};

/// A line: 105 bytes of fields and 4 of CRC-32.
pub(super) const LINE_BYTES: usize = 109;
/// A header: magic, boot id, start, CRC-32.
pub(super) const HEADER_BYTES: usize = 36;

const MAGIC: &[u8; 8] = b"TOLLSNT3";

/// What a request is known by, and the whole intent behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentLine {
    /// The subscription that is charged.
    pub subscription_id: i64,
    /// The charge's period.
    pub period: i32,
    /// The attempt.
    pub attempt_no: i16,
    /// The operation, as its number in the database.
    pub op: u8,
    /// The carrier.
    pub carrier_no: i32,
    /// The amount in minor units of `currency`.
    pub amount_minor: i64,
    /// The currency or asset, as its number in the database.
    pub currency: i16,
    /// The digest over the intent's money fields.
    pub digest: [u8; 16],
    /// The process that sends.
    pub incarnation: i64,
    /// When the intent was made, in µs since 1970.
    pub intent_at_us: i64,
    /// Business time of the intent, milliseconds: what the times inside the request are made of.
    pub business_at_ms: i64,
    /// The window of the first byte, business milliseconds.
    pub not_before_ms: i64,
    /// Its end.
    pub not_after_ms: i64,
    /// The version of the book that it was decided under.
    pub book_version: i32,
    /// Round of the dunning schedule.
    pub round: i16,
    /// Step of the ladder.
    pub step: i16,
    /// The attempt that it is about; 0 for none.
    pub parent_no: i16,
    /// The rule that decided to send.
    pub rule: i16,
    /// The inbox row with the wish that it began with, which is gone from the inbox since; 0 for none.
    pub wish: i64,
}

impl SentLine {
    pub(super) fn encode_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.subscription_id.to_le_bytes());
        out.extend_from_slice(&self.period.to_le_bytes());
        out.extend_from_slice(&self.attempt_no.to_le_bytes());
        out.push(self.op);
        out.extend_from_slice(&self.carrier_no.to_le_bytes());
        out.extend_from_slice(&self.amount_minor.to_le_bytes());
        out.extend_from_slice(&self.currency.to_le_bytes());
        out.extend_from_slice(&self.digest);
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.intent_at_us.to_le_bytes());
        out.extend_from_slice(&self.business_at_ms.to_le_bytes());
        out.extend_from_slice(&self.not_before_ms.to_le_bytes());
        out.extend_from_slice(&self.not_after_ms.to_le_bytes());
        out.extend_from_slice(&self.book_version.to_le_bytes());
        for number in [self.round, self.step, self.parent_no, self.rule] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.wish.to_le_bytes());
        let crc = crc32(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }

    /// `None` if the checksum says that this is no line.
    pub(super) fn decode(bytes: &[u8; LINE_BYTES]) -> Option<SentLine> {
        let mut fields = checked(bytes)?;
        Some(SentLine {
            subscription_id: i64::from_le_bytes(take(&mut fields)?),
            period: i32::from_le_bytes(take(&mut fields)?),
            attempt_no: i16::from_le_bytes(take(&mut fields)?),
            op: u8::from_le_bytes(take(&mut fields)?),
            carrier_no: i32::from_le_bytes(take(&mut fields)?),
            amount_minor: i64::from_le_bytes(take(&mut fields)?),
            currency: i16::from_le_bytes(take(&mut fields)?),
            digest: take(&mut fields)?,
            incarnation: i64::from_le_bytes(take(&mut fields)?),
            intent_at_us: i64::from_le_bytes(take(&mut fields)?),
            business_at_ms: i64::from_le_bytes(take(&mut fields)?),
            not_before_ms: i64::from_le_bytes(take(&mut fields)?),
            not_after_ms: i64::from_le_bytes(take(&mut fields)?),
            book_version: i32::from_le_bytes(take(&mut fields)?),
            round: i16::from_le_bytes(take(&mut fields)?),
            step: i16::from_le_bytes(take(&mut fields)?),
            parent_no: i16::from_le_bytes(take(&mut fields)?),
            rule: i16::from_le_bytes(take(&mut fields)?),
            wish: i64::from_le_bytes(take(&mut fields)?),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) boot_id: [u8; 16],
    pub(super) started_us: i64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..24].copy_from_slice(&self.boot_id);
        bytes[24..32].copy_from_slice(&self.started_us.to_le_bytes());
        let crc = crc32(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if this is no header of a version known here.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let mut fields = checked(bytes)?;
        if take::<8>(&mut fields)? != *MAGIC {
            return None;
        }
        Some(Header { boot_id: take(&mut fields)?, started_us: i64::from_le_bytes(take(&mut fields)?) })
    }
}

/// The kernel's name for the time since the machine started.
pub(super) fn current_boot_id() -> io::Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let wrong =
        || io::Error::new(io::ErrorKind::InvalidData, format!("boot id {:?} is no UUID", text.trim()));
    let value = u128::from_str_radix(&digits, 16).map_err(|_| wrong())?;
    if digits.len() == 32 { Ok(value.to_be_bytes()) } else { Err(wrong()) }
}

pub(super) fn unix_us(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The bytes before the checksum, if it is right.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (fields, crc) = bytes.split_last_chunk::<4>()?;
    (crc32(fields) == u32::from_le_bytes(*crc)).then_some(fields)
}

fn take<const N: usize>(fields: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = fields.split_first_chunk::<N>()?;
    *fields = rest;
    Some(*field)
}

/// CRC-32 as in zip and Ethernet (polynomial 0xEDB88320, reflected).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| (crc >> 8) ^ CRC_TABLE[usize::from((crc as u8) ^ byte)])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};
