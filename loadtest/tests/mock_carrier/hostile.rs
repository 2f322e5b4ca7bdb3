//! Requests that should not be: refused, written down when they name a key, and never the end of the process.

use crate::support::{Mock, camara, flat};

const LINE: &str = "34600000001";

#[test]
fn bad_amounts_lines_and_currencies_are_rejected_and_ledgered() {
    let mock = Mock::start("hostile-camara", "camara", "EUR", &[]);
    for amount in
        ["1e999", "1e2", "-1.99", "1.2345", "1.999", "0", "\"1.99\"", "null", "[1]", "99999999999999999999"]
    {
        let answer = mock.charge(&camara("K1", LINE, amount));
        assert_eq!((answer.status, &answer.json()["code"]), (400, &"INVALID_ARGUMENT".into()), "{amount}");
        mock.assert_last("rejected", "amount", "sent");
        assert_eq!((&mock.last_line()["key"], mock.last_line()["amount"].is_null()), (&"K1".into(), true));
    }
    for (body, reason) in [
        (camara("K1", "346-0000001", "1.99"), "msisdn"),
        (camara("K1", "1", "1.99"), "msisdn"),
        (camara("K1", LINE, "1.99").replace("EUR", "USD"), "currency"),
        (camara("K1", LINE, "1.99").replace("EUR", "\\u0000"), "currency"),
        (camara(&"k".repeat(129), LINE, "1.99"), "key"),
        (camara("K1", LINE, "1.99").replace("}}}}", "}}}"), "json"),
    ] {
        assert_eq!(mock.charge(&body).status, 400, "{body}");
        mock.assert_last("rejected", reason, "sent");
    }
    // None of this was remembered under the key.
    assert_eq!(mock.charge(&camara("K1", LINE, "1.99")).status, 201);
    mock.assert_last("applied", "", "sent");
}

#[test]
fn without_a_readable_key_there_is_no_line_but_an_answer() {
    let mock = Mock::start("hostile-flat", "flat", "TND", &[]);
    let mut client = mock.connect();
    let deep = "[".repeat(60_000);
    for body in ["", "nonsense", "{}", "[]", "{\"ref\":7}", "{\"ref\":\"\"}", "\u{0}", &deep] {
        let answer = client.charge("/v1/charge", body).unwrap();
        assert_eq!(answer.body, r#"{"result":"ERR","code":"BAD_REQUEST","ref":""}"#);
    }
    let answer = client.send("POST", "/v1/charge", "", b"{\"ref\":\"\xff\"}").unwrap();
    assert!(answer.body.contains("BAD_REQUEST"));
    let stats = mock.stats();
    assert_eq!((&stats["requests"], &stats["unreadable"], mock.lines().len()), (&9.into(), &9.into(), 0));
}

#[test]
fn hostile_text_cannot_break_the_ledger() {
    let mock = Mock::start("hostile-text", "flat", "TND", &[]);
    let body = r#"{"msisdn":"21620000001","ref":"a\"}\n{\u0001\ud83d\ude00","amount":5,"currency":"TND","text":"\\\"\r\n,"}"#;
    assert_eq!(mock.charge(body).json()["ref"], "a\"}\n{\u{1}😀");
    let lines = mock.lines();
    assert_eq!((lines.len(), &lines[0]["text"]), (1, &"\\\"\r\n,".into()));
    let mock = Mock::start_on(mock.kill(), "flat", "TND", &[]);
    assert_eq!(mock.charge(body).json()["result"], "OK");
    mock.assert_last("replayed", "", "sent");
}

#[test]
fn oversized_and_malformed_requests_leave_the_carrier_standing() {
    let mock = Mock::start("hostile-size", "camara", "EUR", &[]);
    let padded = |size: usize| camara("K1", LINE, "1.99").replace("Ring", &"x".repeat(size));
    let answer = mock.charge(&padded(1 << 20));
    assert_eq!((answer.status, mock.lines().len()), (400, 0));
    assert_eq!(mock.charge(&padded(60 * 1024)).status, 201);
    // Beyond what is read away the connection may end before the answer is seen.
    let _ = mock.connect().charge("/payments", &padded(8 << 20));

    let head = format!("x-long: {}\r\n", "y".repeat(100 * 1024));
    let refused = mock.connect().send("POST", "/payments", &head, b"");
    assert!(refused.map_or(true, |answer| answer.status == 431));
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET\r\n\r\n",
        b"POST /payments HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut client = mock.connect();
        client.write_raw(bytes).unwrap();
        client.reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        assert!(client.read().map_or(true, |answer| answer.status >= 400));
    }
    let mut half = mock.connect();
    half.write_raw(b"POST /payments HTTP/1.1\r\nhost: m\r\ncontent-length: 500\r\n\r\n{\"amount").unwrap();
    drop(half);
    assert_eq!(mock.connect().send("GET", "/payments", "", b"").unwrap().status, 405);
    assert_eq!(mock.connect().send("POST", "/elsewhere", "", b"").unwrap().status, 404);
    assert_eq!(mock.charge(&camara("K2", LINE, "1.99")).status, 201);
    assert_eq!(mock.stats()["applied"], 2);
}

#[test]
fn a_chunked_body_is_read_too() {
    let mock = Mock::start("chunked", "flat", "TND", &[]);
    let body = flat("K1", "21620000001", "5");
    let (first, second) = body.split_at(20);
    let mut client = mock.connect();
    let head = "POST /v1/charge HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    client.write_raw(format!("{head}{}{}0\r\n\r\n", chunk(first), chunk(second)).as_bytes()).unwrap();
    assert_eq!(client.read().unwrap().json()["result"], "OK");
}

#[test]
fn unknown_behaviour_keys_and_methods_are_refused() {
    let mock = Mock::start("control", "flat", "TND", &[]);
    for (method, path, body, status) in [
        ("POST", "behaviour", "{\"dwon\":true}", 400),
        ("POST", "behaviour", "nonsense", 400),
        ("PUT", "behaviour", "{\"busy_ppm\":1000001}", 400),
        ("DELETE", "behaviour", "", 405),
        ("POST", "stats", "", 405),
        ("GET", "sync", "", 405),
        ("GET", "nothing", "", 404),
        ("POST", "sync", "", 204),
    ] {
        let answer = mock.connect().send(method, &format!("/_mock/{path}"), "", body.as_bytes()).unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
    assert_eq!(mock.connect().send("GET", "/_mock/behaviour", "", b"").unwrap().json()["down"], false);
}
