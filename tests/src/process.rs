//! Programs under test as child processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A program of this build, beside the test's own.
pub fn program(name: &str) -> PathBuf {
    let mut dir = std::env::current_exe().unwrap();
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins builds it", path.display());
    path
}

/// A mock carrier.
pub struct Mock {
    child: Child,
    pub address: String,
    pub ledger: PathBuf,
}

impl Mock {
    pub fn start(dir: &Path, id: &str, dialect: &str, currency: &str, behaviour: &str) -> Self {
        Self::start_with(dir, id, dialect, currency, behaviour, &[])
    }

    /// With further arguments.
    pub fn start_with(
        dir: &Path,
        id: &str,
        dialect: &str,
        currency: &str,
        behaviour: &str,
        more: &[&str],
    ) -> Self {
        let ledger = dir.join(format!("{id}.ledger.ndjson"));
        let script = dir.join(format!("{id}.behaviour.json"));
        std::fs::write(&script, behaviour).unwrap();
        let mut child = Command::new(program("mock-carrier"))
            .args(["--listen", "127.0.0.1:0", "--dialect", dialect, "--currency", currency, "--seed", "5"])
            .arg("--ledger")
            .arg(&ledger)
            .arg("--behaviour")
            .arg(&script)
            .arg("--stdin-guard")
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = ready["listening"].as_str().unwrap().to_owned();
        Self { child, address, ledger }
    }

    /// Changes some keys of its behaviour while it runs.
    pub fn behave(&self, changes: &str) {
        let answer = http(&self.address, "POST", "/_mock/behaviour", changes);
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
    }

    pub fn stats(&self) -> serde_json::Value {
        let answer = http(&self.address, "GET", "/_mock/stats", "");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    pub fn applied(&self) -> u64 {
        self.stats()["applied"].as_u64().unwrap()
    }

    pub fn sync(&self) {
        let answer = http(&self.address, "POST", "/_mock/sync", "");
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `toll serve` process.
pub struct Engine {
    child: Child,
    pub api: String,
    log: PathBuf,
}

impl Engine {
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let from = file.metadata().unwrap().len();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let mut engine = Self { child, api: String::new(), log: log.to_owned() };
        let deadline = Instant::now() + Duration::from_secs(60);
        while engine.api.is_empty() {
            assert!(Instant::now() < deadline, "toll serve did not start:\n{}", engine.log_text());
            assert!(engine.child.try_wait().unwrap().is_none(), "toll serve ended:\n{}", engine.log_text());
            let text = std::fs::read(log).unwrap();
            let text = String::from_utf8_lossy(&text[usize::try_from(from).unwrap()..]).into_owned();
            if let Some((_, rest)) = text.split_once("http://")
                && rest.contains(|c: char| c.is_whitespace() || c == '"')
            {
                let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap();
                engine.api = rest[..end].to_owned();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        engine
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// kill -9, and waits until it is gone.
    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; gives how long the drain took and whether it ended well.
    pub fn terminate(mut self) -> (Duration, bool) {
        let began = Instant::now();
        self.signal(Signal::TERM);
        let deadline = began + Duration::from_secs(40);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (began.elapsed(), status.success());
            }
            assert!(Instant::now() < deadline, "toll serve did not end after SIGTERM:\n{}", self.log_text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn status(&self) -> serde_json::Value {
        let answer = http(&self.api, "GET", "/v1/status", "");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_default()
    }

    pub fn get(&self, path: &str) -> String {
        http(&self.api, "GET", path, "")
    }

    /// Of how many of these subscriptions its own history has an answer for a period of this month (yyyymm): durable, also
    /// while Postgres is away.
    pub fn answers_kept(&self, subscriptions: &[i64], month: i32) -> usize {
        let endpoint = format!("http://{}", self.api);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let has = |id: &&i64| {
            let asked = runtime.block_on(api::client::fetch_history(&endpoint, **id, month, month));
            !asked.unwrap().rows.is_empty()
        };
        subscriptions.iter().filter(has).count()
    }

    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One plain HTTP request; the whole answer as text.
pub(crate) fn http(address: &str, method: &str, path: &str, body: &str) -> String {
    http_with(address, method, path, "", body)
}

/// One plain HTTP request with more header lines, each with its line end; the whole answer as text.
pub fn http_with(address: &str, method: &str, path: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}connection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
