//! A flat legacy interface, `POST /v1/charge`: minor units, always HTTP 200, the body carries the meaning.

use bytes::{BufMut, BytesMut};
use http::StatusCode;

use super::super::json::{BadJson, Reader, push_str};
use super::super::money::push_u64;
use super::{Answer, Asked, Dialect, Fields, Refusal, Unit, understood};

pub(super) fn read(body: &[u8]) -> Asked<'_> {
    let mut fields = Fields::default();
    let read = fill(body, &mut fields);
    understood(fields, read, false, Unit::Minor)
}

fn fill<'a>(body: &'a [u8], fields: &mut Fields<'a>) -> Result<(), BadJson> {
    let mut json = Reader::new(body)?;
    json.object(|json, name| {
        match name {
            "msisdn" => fields.msisdn = json.string()?,
            "ref" => fields.key = json.string()?,
            "amount" => fields.amount = json.number()?.map(Into::into),
            "currency" => fields.currency = json.string()?,
            "text" => fields.text = json.string()?,
            _ => json.skip()?,
        }
        Ok(())
    })?;
    json.end()
}

pub(super) fn write(out: &mut BytesMut, answer: Answer, asked: &Asked<'_>) -> StatusCode {
    let code = match answer {
        Answer::Charged { txn, said_minor } => {
            out.put_slice(b"{\"result\":\"OK\",\"txn\":\"");
            Dialect::Flat.push_txn(out, txn);
            out.put_slice(b"\",\"ref\":");
            push_str(out, &asked.key);
            out.put_slice(b",\"amount\":");
            push_u64(out, said_minor);
            out.put_slice(b",\"currency\":\"");
            out.put_slice(asked.currency.as_bytes());
            out.put_slice(b"\"}");
            return StatusCode::OK;
        }
        Answer::Pending { txn } => {
            out.put_slice(b"{\"result\":\"PENDING\",\"txn\":\"");
            Dialect::Flat.push_txn(out, txn);
            out.put_slice(b"\",\"ref\":");
            push_str(out, &asked.key);
            out.put_slice(b"}");
            return StatusCode::OK;
        }
        Answer::Refused(Refusal::NoFunds) => "NO_FUNDS",
        Answer::Refused(Refusal::Barred) => "BARRED",
        Answer::Refused(Refusal::Unknown) => "UNKNOWN_MSISDN",
        Answer::Refused(Refusal::Limit) => "LIMIT",
        Answer::Throttled | Answer::Busy => "BUSY",
        Answer::Duplicate => "DUPLICATE",
        // Not BAD_REQUEST: that would say that nothing moved under this key.
        Answer::KeyReused => "REF_REUSED",
        Answer::BadRequest(_) | Answer::BadApiKey => "BAD_REQUEST",
    };
    out.put_slice(b"{\"result\":\"ERR\",\"code\":\"");
    out.put_slice(code.as_bytes());
    out.put_slice(b"\",\"ref\":");
    push_str(out, &asked.key);
    out.put_slice(b"}");
    StatusCode::OK
}
