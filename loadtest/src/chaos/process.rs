//! The programs of a chaos run as child processes, and one HTTP request at a time to them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::sim::dice::Dice;

/// One answer of a program.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Below the ports that the kernel gives to outgoing connections.
const PORTS: (u64, u64) = (20_000, 32_000);
const PORT_TRIES: usize = 200;

/// A mock carrier.
#[derive(Debug)]
pub(super) struct Mock {
    child: Child,
    pub(super) id: &'static str,
    pub(super) address: String,
    pub(super) ledger: PathBuf,
}

/// How a mock starts.
pub(super) struct MockStart<'a> {
    pub(super) program: &'a Path,
    pub(super) dir: &'a Path,
    pub(super) id: &'static str,
    pub(super) dialect: &'a str,
    pub(super) currency: &'a str,
    pub(super) behaviour: &'a str,
    pub(super) callback_url: &'a str,
    pub(super) secret: &'a str,
    pub(super) seed: u64,
}

impl Mock {
    pub(super) fn start(how: &MockStart<'_>) -> anyhow::Result<Self> {
        let ledger = how.dir.join(format!("{}.ledger.ndjson", how.id));
        let script = how.dir.join(format!("{}.behaviour.json", how.id));
        std::fs::write(&script, how.behaviour)?;
        let mut child = Command::new(how.program)
            .args(["--listen", "127.0.0.1:0", "--dialect", how.dialect, "--currency", how.currency])
            .args(["--callback-url", how.callback_url, "--callback-secret", how.secret, "--stdin-guard"])
            .args(["--seed", &how.seed.to_string()])
            .arg("--ledger")
            .arg(&ledger)
            .arg("--behaviour")
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", how.program.display()))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the mock has no output")?;
        BufReader::new(stdout.take(4_096)).read_line(&mut line)?;
        let ready: serde_json::Value = serde_json::from_str(&line).context("the mock did not start")?;
        let address =
            ready["listening"].as_str().context("the mock does not say where it listens")?.to_owned();
        Ok(Self { child, id: how.id, address, ledger })
    }

    /// Changes some keys of its behaviour.
    pub(super) fn behave(&self, changes: &str) -> anyhow::Result<()> {
        let answer = http(&self.address, "POST", "/_mock/behaviour", changes)?;
        ensure!(answer.starts_with("HTTP/1.1 2"), "{} does not behave so: {answer}", self.id);
        Ok(())
    }

    /// Requests that it received.
    pub(super) fn requests(&self) -> u64 {
        self.stat("requests")
    }

    /// Charges that it applied.
    pub(super) fn applied(&self) -> u64 {
        self.stat("applied")
    }

    fn stat(&self, name: &str) -> u64 {
        let stats = http(&self.address, "GET", "/_mock/stats", "").ok().and_then(|answer| body_of(&answer));
        stats.and_then(|stats| stats[name].as_u64()).unwrap_or(0)
    }

    /// Makes it write its ledger to the disk.
    pub(super) fn sync(&self) -> anyhow::Result<()> {
        let answer = http(&self.address, "POST", "/_mock/sync", "")?;
        ensure!(answer.starts_with("HTTP/1.1 204"), "{} did not sync: {answer}", self.id);
        Ok(())
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `toll serve` process.
#[derive(Debug)]
pub(super) struct Engine {
    child: Child,
}

impl Engine {
    /// Starts `command`, whose errors and logs go to the end of `log`.
    pub(super) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn()?;
        Ok(Self { child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal); // it may have died
    }

    /// How it ended, when it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The most memory that it ever held since [`Engine::forget_peak`], and what it holds now, in bytes.
    pub(super) fn memory(&self) -> Option<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let bytes = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
        };
        Some((bytes("VmHWM:")?, bytes("VmRSS:")?))
    }

    /// The peak counts from now on.
    pub(super) fn forget_peak(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5"); // then the peak is an older one
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One plain HTTP request; the whole answer as text.
pub(super) fn http(address: &str, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
    let to = address.parse().with_context(|| format!("{address} is no address"))?;
    let mut stream = TcpStream::connect_timeout(&to, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The JSON of an answer.
pub(super) fn body_of(answer: &str) -> Option<serde_json::Value> {
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// An address that nobody listens on and that no outgoing connection takes.
pub(super) fn free_address(dice: &Dice) -> anyhow::Result<String> {
    for _ in 0..PORT_TRIES {
        let address = format!("127.0.0.1:{}", dice.between(PORTS.0, PORTS.1));
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("no free port between {} and {}", PORTS.0, PORTS.1)
}
