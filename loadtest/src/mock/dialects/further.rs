//! What all dialects share beside a charge: refunds, two phases, questions. The bodies are flat objects; only amounts are
//! written each dialect's own way.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use http::StatusCode;

use super::super::json::{BadJson, Reader, push_str};
use super::super::money::{push_major, push_u64};
use super::{Asked, Dialect, Fields, Unit, understood};

/// A request that follows another one.
pub(in crate::mock) struct Follow<'a> {
    pub(in crate::mock) asked: Asked<'a>,
    /// The key of the request that it follows; empty: none.
    pub(in crate::mock) parent: Cow<'a, str>,
    /// The carrier's own id of that request, where it is named.
    pub(in crate::mock) parent_id: Option<Cow<'a, str>>,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mock) struct Said {
    pub(in crate::mock) state: &'static str,
    pub(in crate::mock) reason: &'static str,
    /// The ledger line that it is about.
    pub(in crate::mock) txn: Option<u64>,
    pub(in crate::mock) amount_minor: Option<u64>,
}

impl Said {
    pub(in crate::mock) fn plain(state: &'static str, reason: &'static str) -> Self {
        Self { state, reason, txn: None, amount_minor: None }
    }
}

impl Dialect {
    /// Understands the body of a request that follows another one.
    pub(in crate::mock) fn read_follow(self, body: &[u8]) -> Follow<'_> {
        let mut fields = Fields::default();
        let (mut parent, mut parent_id) = (None, None);
        let read = self.fill_follow(body, &mut fields, &mut parent, &mut parent_id);
        let unit = if self == Self::Flat { Unit::Minor } else { Unit::Major };
        Follow { asked: understood(fields, read, false, unit), parent: parent.unwrap_or_default(), parent_id }
    }

    fn fill_follow<'a>(
        self,
        body: &'a [u8],
        fields: &mut Fields<'a>,
        parent: &mut Option<Cow<'a, str>>,
        parent_id: &mut Option<Cow<'a, str>>,
    ) -> Result<(), BadJson> {
        let mut json = Reader::new(body)?;
        json.object(|json, name| {
            match name {
                "key" => fields.key = json.string()?,
                "parent" => *parent = json.string()?,
                "parent_id" => *parent_id = json.string()?,
                "msisdn" => fields.msisdn = json.string()?,
                "amount" if self == Self::Priced => fields.amount = json.string()?,
                "amount" => fields.amount = json.number()?.map(Into::into),
                "currency" => fields.currency = json.string()?,
                _ => json.skip()?,
            }
            Ok(())
        })?;
        json.end()
    }

    /// Writes an answer and gives its status.
    pub(in crate::mock) fn write_said(
        self,
        out: &mut BytesMut,
        said: Said,
        asked: &Asked<'_>,
        parent: &str,
    ) -> StatusCode {
        out.put_slice(b"{\"state\":\"");
        out.put_slice(said.state.as_bytes());
        out.put_u8(b'"');
        if let Some(txn) = said.txn {
            out.put_slice(b",\"id\":\"");
            self.push_txn(out, txn);
            out.put_u8(b'"');
        }
        for (name, value) in [("key", &*asked.key), ("parent", parent), ("reason", said.reason)] {
            if !value.is_empty() {
                push_member(out, name, value);
            }
        }
        if let Some(minor) = said.amount_minor {
            self.push_amount(out, "amount", minor, asked.exponent);
            push_member(out, "currency", &asked.currency);
        }
        out.put_u8(b'}');
        match (self, said.state) {
            (Self::Flat, _) => StatusCode::OK,
            (_, "NOT_FOUND") => StatusCode::NOT_FOUND,
            (_, "BUSY") => StatusCode::SERVICE_UNAVAILABLE,
            (_, "THROTTLED") => StatusCode::TOO_MANY_REQUESTS,
            (_, "DUPLICATE" | "KEY_REUSED") => StatusCode::CONFLICT,
            (_, "INVALID") => StatusCode::BAD_REQUEST,
            (_, "BAD_KEY") => StatusCode::UNAUTHORIZED,
            (Self::Camara, "REFUSED") => StatusCode::FORBIDDEN,
            (Self::Priced, "REFUSED") => StatusCode::PAYMENT_REQUIRED,
            _ => StatusCode::OK,
        }
    }

    /// Writes what a line has: the amount, or whether it is enough.
    pub(in crate::mock) fn write_balance(
        self,
        out: &mut BytesMut,
        asked: &Asked<'_>,
        balance_minor: u64,
        enough: Option<bool>,
    ) {
        out.put_slice(b"{\"msisdn\":");
        push_str(out, &asked.msisdn);
        match enough {
            Some(true) => out.put_slice(b",\"enough\":true"),
            Some(false) => out.put_slice(b",\"enough\":false"),
            None => self.push_amount(out, "balance", balance_minor, asked.exponent),
        }
        push_member(out, "currency", &asked.currency);
        out.put_u8(b'}');
    }

    /// Writes the message about a decided charge.
    pub(in crate::mock) fn write_message(
        self,
        out: &mut BytesMut,
        (id, event, reason): (&str, &str, &str),
        asked: &Asked<'_>,
        (txn, minor): (u64, u64),
    ) {
        out.put_slice(b"{\"event\":\"");
        out.put_slice(event.as_bytes());
        out.put_slice(b"\",\"charge\":\"");
        self.push_txn(out, txn);
        out.put_u8(b'"');
        for (name, value) in [("id", id), ("key", &asked.key), ("msisdn", &asked.msisdn), ("reason", reason)]
        {
            push_member(out, name, value);
        }
        self.push_amount(out, "amount", minor, asked.exponent);
        push_member(out, "currency", &asked.currency);
        out.put_u8(b'}');
    }

    fn push_amount(self, out: &mut BytesMut, name: &str, minor: u64, exponent: u32) {
        out.put_slice(b",\"");
        out.put_slice(name.as_bytes());
        out.put_slice(b"\":");
        match self {
            Self::Camara => push_major(out, minor, exponent),
            Self::Flat => push_u64(out, minor),
            Self::Priced => {
                out.put_u8(b'"');
                push_major(out, minor, exponent);
                out.put_u8(b'"');
            }
        }
    }
}

fn push_member(out: &mut BytesMut, name: &str, value: &str) {
    out.put_slice(b",\"");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\":");
    push_str(out, value);
}
