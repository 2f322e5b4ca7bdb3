//! An interface with an API key, `POST /billing/charges`: decimal amounts as strings, the meaning in status and `state`.

use bytes::{BufMut, BytesMut};
use http::StatusCode;

use super::super::json::{BadJson, Reader, push_str};
use super::super::money::push_major;
use super::{Answer, Asked, Dialect, Fields, Refusal, Unit, understood};

pub(super) fn read(body: &[u8]) -> Asked<'_> {
    let mut fields = Fields::default();
    let read = fill(body, &mut fields);
    understood(fields, read, false, Unit::Major)
}

fn fill<'a>(body: &'a [u8], fields: &mut Fields<'a>) -> Result<(), BadJson> {
    let mut json = Reader::new(body)?;
    json.object(|json, name| {
        match name {
            "key" => fields.key = json.string()?,
            "line" => fields.msisdn = json.string()?,
            "label" => fields.text = json.string()?,
            "price" => json.object(|json, name| {
                match name {
                    "value" => fields.amount = json.string()?,
                    "currency" => fields.currency = json.string()?,
                    _ => json.skip()?,
                }
                Ok(())
            })?,
            _ => json.skip()?,
        }
        Ok(())
    })?;
    json.end()
}

pub(super) fn write(out: &mut BytesMut, answer: Answer, asked: &Asked<'_>) -> StatusCode {
    let (status, body) = match answer {
        Answer::Charged { txn, said_minor } => {
            write_charged(out, txn, said_minor, asked);
            return StatusCode::OK;
        }
        Answer::Pending { txn } => {
            out.put_slice(b"{\"state\":\"PENDING\",\"id\":\"");
            Dialect::Priced.push_txn(out, txn);
            out.put_slice(b"\",\"key\":");
            push_str(out, &asked.key);
            out.put_slice(b"}");
            return StatusCode::ACCEPTED;
        }
        Answer::Duplicate => return write_key(out, "DUPLICATE", asked),
        Answer::KeyReused => return write_key(out, "KEY_REUSED", asked),
        Answer::Refused(Refusal::NoFunds) => {
            (StatusCode::PAYMENT_REQUIRED, "{\"state\":\"REFUSED\",\"reason\":\"E01_BALANCE\"}")
        }
        Answer::Refused(Refusal::Barred) => {
            (StatusCode::PAYMENT_REQUIRED, "{\"state\":\"REFUSED\",\"reason\":\"E02_BARRED\"}")
        }
        Answer::Refused(Refusal::Unknown) => {
            (StatusCode::NOT_FOUND, "{\"state\":\"REFUSED\",\"reason\":\"E03_NO_LINE\"}")
        }
        Answer::Refused(Refusal::Limit) => {
            (StatusCode::PAYMENT_REQUIRED, "{\"state\":\"REFUSED\",\"reason\":\"E04_LIMIT\"}")
        }
        Answer::Throttled | Answer::Busy => (StatusCode::SERVICE_UNAVAILABLE, "{\"state\":\"BUSY\"}"),
        Answer::BadRequest(_) => {
            (StatusCode::BAD_REQUEST, "{\"state\":\"INVALID\",\"reason\":\"E09_REQUEST\"}")
        }
        Answer::BadApiKey => (StatusCode::UNAUTHORIZED, "{\"error\":\"bad_key\"}"),
    };
    out.put_slice(body.as_bytes());
    status
}

fn write_key(out: &mut BytesMut, state: &str, asked: &Asked<'_>) -> StatusCode {
    out.put_slice(b"{\"state\":\"");
    out.put_slice(state.as_bytes());
    out.put_slice(b"\",\"key\":");
    push_str(out, &asked.key);
    out.put_slice(b"}");
    StatusCode::CONFLICT
}

fn write_charged(out: &mut BytesMut, txn: u64, said_minor: u64, asked: &Asked<'_>) {
    out.put_slice(b"{\"state\":\"CHARGED\",\"id\":\"");
    Dialect::Priced.push_txn(out, txn);
    out.put_slice(b"\",\"key\":");
    push_str(out, &asked.key);
    out.put_slice(b",\"price\":{\"value\":\"");
    push_major(out, said_minor, asked.exponent);
    out.put_slice(b"\",\"currency\":\"");
    out.put_slice(asked.currency.as_bytes());
    out.put_slice(b"\"}}");
}
