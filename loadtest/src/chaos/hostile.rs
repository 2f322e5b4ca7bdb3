//! Answers that are meant to do harm: endless, compressed without measure, nested without end, not HTTP at all.

use std::io;
use std::sync::OnceLock;

use super::proxy::Stream;
use crate::sim::dice::Dice;

/// As many bytes as an endless answer has.
const ENDLESS_BYTES: u64 = 10 << 30;
/// One piece of it.
const PIECE_BYTES: usize = 64 * 1024;
/// What the compressed answer becomes; itself it is a 158th of that, below the 64 KiB that carriers' files allow.
const BOMB_BYTES: usize = 9 << 20;
/// Brackets of the deep answer: below the 64 KiB that carriers' files allow, so that a parser sees them.
const DEPTH: usize = 60_000;
/// Levels of entities: 10⁹ copies.
const LAUGHS: usize = 9;
const GARBAGE_BYTES_MAX: u64 = 4_096;

/// A hostile answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hostile {
    /// 10 GB with their length told.
    HugeBody,
    /// 10 GB in chunks, without a length.
    EndlessChunks,
    /// Gzip that becomes 158 times as much.
    GzipBomb,
    /// Entities of entities of entities.
    XmlBomb,
    /// Brackets without end.
    DeepJson,
    /// A head without end.
    EndlessHead,
    /// Bytes.
    Garbage,
}

impl Hostile {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::HugeBody,
        Self::EndlessChunks,
        Self::GzipBomb,
        Self::XmlBomb,
        Self::DeepJson,
        Self::EndlessHead,
        Self::Garbage,
    ];

    /// As reports show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HugeBody => "10 GB body",
            Self::EndlessChunks => "10 GB in chunks",
            Self::GzipBomb => "gzip bomb",
            Self::XmlBomb => "XML bomb",
            Self::DeepJson => "deep JSON",
            Self::EndlessHead => "endless head",
            Self::Garbage => "garbage",
        }
    }

    /// Writes it until it is out or the other end has had enough.
    pub(super) async fn answer(self, dice: &Dice, client: &mut Stream) -> io::Result<()> {
        let json = "content-type: application/json";
        match self {
            Self::HugeBody => {
                head(client, &format!("{json}\r\ncontent-length: {ENDLESS_BYTES}")).await?;
                endless(client, &vec![b'['; PIECE_BYTES]).await
            }
            Self::EndlessChunks => {
                head(client, &format!("{json}\r\ntransfer-encoding: chunked")).await?;
                let piece =
                    [format!("{PIECE_BYTES:x}\r\n").as_bytes(), &vec![b' '; PIECE_BYTES], b"\r\n"].concat();
                endless(client, &piece).await
            }
            Self::EndlessHead => {
                client.write_all(b"HTTP/1.1 200 OK\r\n").await?;
                endless(client, &b"x-more: and more\r\n".repeat(PIECE_BYTES / 18)).await
            }
            Self::GzipBomb => {
                static BOMB: OnceLock<Vec<u8>> = OnceLock::new();
                let body = BOMB.get_or_init(|| gzip_of_zeros(BOMB_BYTES));
                whole(client, &format!("{json}\r\ncontent-encoding: gzip"), body).await
            }
            Self::XmlBomb => whole(client, "content-type: application/xml", xml_bomb().as_bytes()).await,
            Self::DeepJson => whole(client, json, "[".repeat(DEPTH).as_bytes()).await,
            Self::Garbage => {
                let bytes: Vec<u8> =
                    (0..dice.between(1, GARBAGE_BYTES_MAX)).map(|_| dice.next() as u8).collect();
                client.write_all(&bytes).await
            }
        }
    }
}

async fn head(client: &mut Stream, headers: &str) -> io::Result<()> {
    client.write_all(format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n").as_bytes()).await
}

async fn whole(client: &mut Stream, headers: &str, body: &[u8]) -> io::Result<()> {
    head(client, &format!("{headers}\r\ncontent-length: {}", body.len())).await?;
    client.write_all(body).await
}

async fn endless(client: &mut Stream, piece: &[u8]) -> io::Result<()> {
    for _ in 0..ENDLESS_BYTES / piece.len() as u64 {
        client.write_all(piece).await?;
    }
    Ok(())
}

fn xml_bomb() -> String {
    let mut text = "<?xml version=\"1.0\"?><!DOCTYPE bomb [<!ENTITY a0 \"ha\">".to_owned();
    for level in 1..=LAUGHS {
        let inner = format!("&a{};", level - 1).repeat(10);
        text.push_str(&format!("<!ENTITY a{level} \"{inner}\">"));
    }
    text + &format!("]><bomb>&a{LAUGHS};</bomb>")
}

/// A gzip file of so many zero bytes, a 158th of their size: one literal, then copies of 258 bytes with the fixed codes
/// of RFC 1951.
fn gzip_of_zeros(bytes: usize) -> Vec<u8> {
    let copies = bytes.saturating_sub(1) / 258;
    let made = 1 + copies * 258;
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut bits, mut count) = (0_u32, 0_u32);
    let mut push = |out: &mut Vec<u8>, value: u32, length: u32| {
        bits |= value << count;
        count += length;
        while count >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            count -= 8;
        }
    };
    push(&mut out, 0b011, 3); // the last block, fixed codes
    push(&mut out, reversed(0b0011_0000, 8), 8); // the literal 0
    for _ in 0..copies {
        push(&mut out, reversed(0b1100_0101, 8), 8); // length 258
        push(&mut out, 0, 5); // distance 1
    }
    push(&mut out, 0, 7); // the end
    push(&mut out, 0, 7); // fills the last byte
    out.extend_from_slice(&crc32_of_zeros(made).to_le_bytes());
    out.extend_from_slice(&(made as u32).to_le_bytes());
    out
}

fn reversed(code: u32, length: u32) -> u32 {
    code.reverse_bits() >> (32 - length)
}

fn crc32_of_zeros(bytes: usize) -> u32 {
    let mut table = [0_u32; 256];
    for (place, slot) in table.iter_mut().enumerate() {
        *slot = (0..8).fold(place as u32, |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()));
    }
    !(0..bytes).fold(u32::MAX, |crc, _| (crc >> 8) ^ table[(crc & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_bomb_is_gzip_for_everybody() {
        let bomb = gzip_of_zeros(BOMB_BYTES);
        assert!(bomb.len() < 64 * 1024, "{}", bomb.len());
        let mut gzip = Command::new("gzip")
            .arg("-t")
            .stdin(Stdio::piped())
            .spawn()
            .expect("gzip is part of every Debian");
        gzip.stdin.take().unwrap().write_all(&bomb).unwrap();
        assert!(gzip.wait().unwrap().success(), "gzip does not take it");
    }

    #[test]
    fn the_laughs_multiply() {
        let text = xml_bomb();
        assert!(text.len() < 2_000 && text.contains("<bomb>&a9;</bomb>"), "{text}");
    }
}
