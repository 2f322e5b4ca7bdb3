//! Starts the real binary and talks to it over a plain socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(10);

/// One running mock carrier; killed when dropped.
pub struct Mock {
    pub child: Child,
    pub address: String,
    pub ledger: PathBuf,
    path: &'static str,
}

pub fn fresh_ledger(name: &str) -> PathBuf {
    let path =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.ndjson", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

pub fn command(dialect: &str, currency: &str, ledger: &PathBuf) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mock-carrier"));
    command.args(["--dialect", dialect, "--currency", currency, "--seed", "5", "--ledger"]).arg(ledger);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

impl Mock {
    pub fn start(name: &str, dialect: &str, currency: &str, more: &[&str]) -> Self {
        Self::start_on(fresh_ledger(name), dialect, currency, more)
    }

    pub fn start_on(ledger: PathBuf, dialect: &str, currency: &str, more: &[&str]) -> Self {
        let mut child = command(dialect, currency, &ledger).args(more).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (ready["pid"].as_u64(), ready["dialect"].as_str()),
            (Some(child.id().into()), Some(dialect))
        );
        let address = ready["listening"].as_str().unwrap().to_owned();
        let path = match dialect {
            "camara" => "/payments",
            "flat" => "/v1/charge",
            _ => "/billing/charges",
        };
        Self { child, address, ledger, path }
    }

    /// Kills the process as `kill -9` does and gives back its ledger.
    pub fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.ledger.clone()
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { reader: BufReader::new(stream) }
    }

    pub fn charge(&self, body: &str) -> Answer {
        self.connect().charge(self.path, body).unwrap()
    }

    pub fn behave(&self, changes: &str) {
        let answer = self.connect().send("POST", "/_mock/behaviour", "", changes.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    pub fn stats(&self) -> Value {
        self.connect().send("GET", "/_mock/stats", "", b"").unwrap().json()
    }

    pub fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.ledger).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn last_line(&self) -> Value {
        self.lines().pop().unwrap()
    }

    /// Asserts status, reason and reply of the last ledger line.
    pub fn assert_last(&self, status: &str, reason: &str, reply: &str) {
        let line = self.last_line();
        assert_eq!(
            (&line["status"], &line["reason"], &line["reply"]),
            (&status.into(), &reason.into(), &reply.into())
        );
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection.
pub struct Client {
    pub reader: BufReader<TcpStream>,
}

#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Client {
    pub fn charge(&mut self, path: &str, body: &str) -> std::io::Result<Answer> {
        self.send("POST", path, "x-api-key: secret\r\n", body.as_bytes())
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> std::io::Result<Answer> {
        self.write(method, path, headers, body)?;
        self.read()
    }

    pub fn write(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: mock\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        self.write_raw(&[head.as_bytes(), body].concat())
    }

    pub fn write_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    pub fn read(&mut self) -> std::io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.reader.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let head = head.to_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let status = head.get(9..12).unwrap().parse().unwrap();
        let mut body = vec![0; header("content-length:").map_or(0, |length| length.parse().unwrap())];
        self.reader.read_exact(&mut body)?;
        Ok(Answer { status, body: String::from_utf8(body).unwrap(), head: head.clone() })
    }
}

/// Waits until the condition holds, and fails when it does not in time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn camara(key: &str, line: &str, amount: &str) -> String {
    format!(
        r#"{{"amountTransaction":{{"phoneNumber":"+{line}","clientCorrelator":"{key}","referenceCode":"{key}","paymentAmount":{{"chargingInformation":{{"amount":{amount},"currency":"EUR","description":"Ring \"tone\" é"}}}}}}}}"#
    )
}

pub fn flat(key: &str, line: &str, amount: &str) -> String {
    format!(r#"{{"msisdn":"{line}","ref":"{key}","amount":{amount},"currency":"TND","text":"Ring tone"}}"#)
}

pub fn priced(key: &str, line: &str, amount: &str) -> String {
    format!(
        r#"{{"key":"{key}","line":"{line}","price":{{"value":"{amount}","currency":"JPY"}},"label":"Ring tone"}}"#
    )
}
