//! How the process starts and ends, and which connections it keeps.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::{Mock, command, eventually, flat, fresh_ledger};

const LINE: &str = "21620000001";

fn ended_well(child: &mut Child) {
    let mut ended = None;
    eventually("the process ends", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[test]
fn ends_on_a_signal_and_with_its_parent() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut mock = Mock::start(&format!("signal-{}", signal.as_raw()), "flat", "TND", &[]);
        mock.charge(&flat("K1", LINE, "5"));
        let pid = rustix::process::Pid::from_child(&mock.child);
        rustix::process::kill_process(pid, signal).unwrap();
        ended_well(&mut mock.child);
        assert_eq!(mock.lines().len(), 1);
    }
    let mut guarded = Mock::start("stdin-guard", "flat", "TND", &["--stdin-guard"]);
    guarded.charge(&flat("K1", LINE, "5"));
    drop(guarded.child.stdin.take());
    ended_well(&mut guarded.child);
    let mut free = Mock::start("stdin-free", "flat", "TND", &[]);
    drop(free.child.stdin.take());
    free.charge(&flat("K1", LINE, "5"));
}

#[test]
fn a_torn_last_line_is_cut_off_with_a_note() {
    let mock = Mock::start("torn", "flat", "TND", &[]);
    let first = mock.charge(&flat("K1", LINE, "5"));
    let ledger = mock.kill();
    let whole = std::fs::read(&ledger).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&ledger).unwrap();
    file.write_all(br#"{"seq":2,"at_us":17,"key":"K2","msi"#).unwrap();

    let mut child =
        command("flat", "TND", &ledger).arg("--stdin-guard").stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdin.take());
    let mut note = String::new();
    child.stderr.take().unwrap().read_to_string(&mut note).unwrap();
    ended_well(&mut child);
    assert!(note.contains("torn last line of 35 bytes"), "{note}");
    assert_eq!(std::fs::read(&ledger).unwrap(), whole);

    let mock = Mock::start_on(ledger, "flat", "TND", &[]);
    assert_eq!(mock.charge(&flat("K1", LINE, "5")), first);
    assert_eq!(mock.last_line()["seq"], 2);
}

#[test]
fn will_not_start_on_what_it_cannot_trust() {
    let mock = Mock::start("in-use", "flat", "TND", &[]);
    let foreign = fresh_ledger("foreign");
    std::fs::write(&foreign, "not a ledger\n").unwrap();
    let behaviour = fresh_ledger("behaviour");
    std::fs::write(&behaviour, "{\"unheard\":1}").unwrap();
    let behaviour = behaviour.to_str().unwrap();
    for (ledger, currency, more, complaint) in [
        (&mock.ledger, "TND", vec![], "in use by another process"),
        (&foreign, "TND", vec![], "line 1"),
        (&fresh_ledger("currency"), "TNX", vec![], "not an iso 4217 code"),
        (&fresh_ledger("keys"), "TND", vec!["--behaviour", behaviour], "unheard"),
        (&fresh_ledger("address"), "TND", vec!["--listen", mock.address.as_str()], "cannot listen"),
    ] {
        let output = command("flat", currency, ledger).args(more).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(complaint), "{said}");
    }
}

#[test]
fn slow_requests_are_cut_off_and_idle_connections_are_not() {
    let mock = Mock::start("slow", "flat", "TND", &[]);
    let mut idle = mock.connect();
    idle.charge("/v1/charge", &flat("K1", LINE, "5")).unwrap();
    let mut slow_head = mock.connect();
    slow_head.write_raw(b"POST /v1/charge HTTP/1.1\r\nhost:").unwrap();
    let mut slow_body = mock.connect();
    slow_body.write_raw(b"POST /v1/charge HTTP/1.1\r\ncontent-length: 100\r\n\r\n{").unwrap();
    for mut slow in [slow_head, slow_body] {
        slow.reader.get_ref().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut nothing = Vec::new();
        let ended = slow.reader.read_to_end(&mut nothing);
        assert!(ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset);
        assert!(nothing.is_empty());
    }
    assert_eq!(idle.charge("/v1/charge", &flat("K2", LINE, "5")).unwrap().json()["result"], "OK");
}
