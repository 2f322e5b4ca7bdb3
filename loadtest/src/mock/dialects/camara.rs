//! CAMARA CarrierBilling, `POST /payments`: the HTTP status carries the meaning, the amount is a decimal JSON number.

use bytes::{BufMut, BytesMut};
use http::StatusCode;

use super::super::json::{BadJson, Reader, push_str};
use super::super::money::push_major;
use super::{Answer, Asked, Dialect, Fields, Refusal, Unit, understood};

pub(super) fn read(body: &[u8]) -> Asked<'_> {
    let mut fields = Fields { lacks: Some("reference"), ..Fields::default() };
    let read = fill(body, &mut fields);
    understood(fields, read, true, Unit::Major)
}

fn fill<'a>(body: &'a [u8], fields: &mut Fields<'a>) -> Result<(), BadJson> {
    let mut json = Reader::new(body)?;
    json.object(|json, name| match name {
        "amountTransaction" => json.object(|json, name| {
            match name {
                "phoneNumber" => fields.msisdn = json.string()?,
                "clientCorrelator" => fields.key = json.string()?,
                "referenceCode" if json.string()?.is_some_and(|code| !code.is_empty()) => fields.lacks = None,
                "referenceCode" => {}
                "paymentAmount" => json.object(|json, name| match name {
                    "chargingInformation" => json.object(|json, name| {
                        match name {
                            "amount" => fields.amount = json.number()?.map(Into::into),
                            "currency" => fields.currency = json.string()?,
                            "description" => fields.text = json.string()?,
                            _ => json.skip()?,
                        }
                        Ok(())
                    }),
                    _ => json.skip(),
                })?,
                _ => json.skip()?,
            }
            Ok(())
        }),
        _ => json.skip(),
    })?;
    json.end()
}

pub(super) fn write(out: &mut BytesMut, answer: Answer, asked: &Asked<'_>) -> StatusCode {
    let (status, code, message) = match answer {
        Answer::Charged { txn, said_minor } => {
            write_charged(out, txn, said_minor, asked);
            return StatusCode::CREATED;
        }
        Answer::Pending { txn } => {
            out.put_slice(b"{\"paymentId\":\"");
            Dialect::Camara.push_txn(out, txn);
            out.put_slice(b"\",\"paymentStatus\":\"processing\"}");
            return StatusCode::CREATED;
        }
        Answer::Refused(Refusal::NoFunds) => {
            (StatusCode::FORBIDDEN, "CARRIER_BILLING.PAYMENT_DENIED", "insufficient balance")
        }
        Answer::Refused(Refusal::Barred) => {
            (StatusCode::FORBIDDEN, "CARRIER_BILLING.PAYMENT_DENIED", "line barred")
        }
        Answer::Refused(Refusal::Unknown) => {
            (StatusCode::NOT_FOUND, "IDENTIFIER_NOT_FOUND", "phone number not known")
        }
        Answer::Refused(Refusal::Limit) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "CARRIER_BILLING.AMOUNT_THRESHOLD_OVERPASSED",
            "amount above the limit",
        ),
        Answer::Duplicate => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", "clientCorrelator already exist"),
        Answer::KeyReused => {
            (StatusCode::CONFLICT, "CONFLICT", "clientCorrelator belongs to another payment")
        }
        Answer::Throttled => (StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS", "too many requests"),
        Answer::Busy => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "not processed"),
        Answer::BadRequest(flaw) => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", flaw),
        Answer::BadApiKey => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", "api key"),
    };
    for part in ["{\"status\":", status.as_str(), ",\"code\":\"", code, "\",\"message\":\"", message, "\"}"] {
        out.put_slice(part.as_bytes());
    }
    status
}

fn write_charged(out: &mut BytesMut, txn: u64, said_minor: u64, asked: &Asked<'_>) {
    out.put_slice(b"{\"paymentId\":\"");
    Dialect::Camara.push_txn(out, txn);
    out.put_slice(b"\",\"paymentStatus\":\"succeeded\",\"amountTransaction\":{\"clientCorrelator\":");
    push_str(out, &asked.key);
    // The line was read as digits, so it needs no escaping.
    out.put_slice(b",\"phoneNumber\":\"+");
    out.put_slice(asked.msisdn.as_bytes());
    out.put_slice(b"\",\"paymentAmount\":{\"chargingInformation\":{\"amount\":");
    push_major(out, said_minor, asked.exponent);
    out.put_slice(b",\"currency\":\"");
    out.put_slice(asked.currency.as_bytes());
    out.put_slice(b"\"}}}}");
}
