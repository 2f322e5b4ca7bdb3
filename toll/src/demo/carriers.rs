//! The simulated carriers: processes of their own with books of their own.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use loadtest::compare::CarrierLedger;

use crate::home::Home;

/// How long a simulator may take to listen, stop or answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the demo's carriers and its engine share.
const SECRET: &str = "demo-key-of-the-simulator";

/// One carrier of the demo: its dialect, currency and temper.
struct Script {
    id: &'static str,
    dialect: &'static str,
    currency: &'static str,
    what: &'static str,
    behaviour: &'static str,
}

const SCRIPTS: [Script; 3] = [
    Script {
        id: "alfa",
        dialect: "camara",
        currency: "EUR",
        what: "alfa (Spain, mostly solvent)",
        behaviour: r#"{"balance":{"classes":[{"share_ppm":850000,"min_minor":5000,"max_minor":90000},
            {"share_ppm":150000,"min_minor":0,"max_minor":300}]},"topup_minor":2000,"topup_every_ms":300000,
            "barred_ppm":5000,"unknown_ppm":1000,"throttle_ppm":2000,"reset_applied_ppm":500,"latency_ms":5}"#,
    },
    Script {
        id: "medina",
        dialect: "flat",
        currency: "TND",
        what: "medina (Tunisia, low balances)",
        behaviour: r#"{"balance":{"classes":[{"share_ppm":450000,"min_minor":2000,"max_minor":40000},
            {"share_ppm":550000,"min_minor":0,"max_minor":600}]},"topup_minor":1000,"topup_every_ms":150000,
            "barred_ppm":8000,"unknown_ppm":2000,"busy_ppm":3000,"latency_ms":3}"#,
    },
    Script {
        id: "hoshi",
        dialect: "priced",
        currency: "JPY",
        what: "hoshi (Japan, flaky, answers some later)",
        behaviour: r#"{"balance":{"classes":[{"share_ppm":800000,"min_minor":3000,"max_minor":90000},
            {"share_ppm":200000,"min_minor":0,"max_minor":250}]},"topup_minor":1000,"topup_every_ms":200000,
            "barred_ppm":3000,"unknown_ppm":500,"busy_ppm":5000,"reset_not_applied_ppm":150,"reset_applied_ppm":100,
            "garbage_ppm":100,"garbage_kinds":["html","truncated","unknown_code"],"latency_ms":8,"latency_jitter_ms":20,
            "pending_ppm":100000,"callback_delay_ms":400,"callback_twice_ppm":50000,"callback_early_ppm":20000,
            "callback_forged_ppm":10000}"#,
    },
];

/// The simulators that run.
pub(crate) struct Simulators {
    running: Vec<Simulator>,
}

struct Simulator {
    script: &'static Script,
    address: String,
    ledger: PathBuf,
    child: Child,
}

impl Simulators {
    /// Starts all of them on free ports; they end with this process.
    ///
    /// Their messages go to `callbacks`, each to its carrier's path.
    pub(crate) fn start(home: &Home, callbacks: SocketAddr) -> anyhow::Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("mock-carrier");
        anyhow::ensure!(
            binary.exists(),
            "the simulator {} is missing: build it with cargo build -p loadtest",
            binary.display()
        );
        let dir = home.dir().join("carriers");
        fs::create_dir_all(&dir)?;
        write_secret(home, "hoshi_key")?;
        let start = |script| start_one(&binary, &dir, script, callbacks);
        let running = SCRIPTS.iter().map(start).collect::<anyhow::Result<_>>()?;
        Ok(Self { running })
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn describe(&self) -> String {
        self.running.iter().map(|simulator| simulator.script.what).collect::<Vec<_>>().join(", ")
    }

    /// Where the engine reaches them.
    pub(crate) fn bases(&self) -> HashMap<String, String> {
        self.running.iter().map(|s| (s.script.id.to_owned(), format!("http://{}", s.address))).collect()
    }

    /// Their own books, by carrier.
    pub(crate) fn ledgers(&self) -> Vec<CarrierLedger> {
        let ledger = |simulator: &Simulator| CarrierLedger {
            carrier: simulator.script.id.to_owned(),
            path: simulator.ledger.clone(),
        };
        self.running.iter().map(ledger).collect()
    }

    /// Makes them write everything down.
    pub(crate) fn sync(&self) -> anyhow::Result<()> {
        for simulator in &self.running {
            let mut stream = TcpStream::connect(&simulator.address)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.write_all(
                b"POST /_mock/sync HTTP/1.1\r\nhost: mock\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            )?;
            let mut answer = String::new();
            let _ = stream.take(64 * 1024).read_to_string(&mut answer);
            anyhow::ensure!(
                answer.starts_with("HTTP/1.1 204"),
                "the simulator {} did not sync",
                simulator.script.id
            );
        }
        Ok(())
    }

    /// Stops them.
    pub(crate) fn stop(mut self) {
        for simulator in &mut self.running {
            drop(simulator.child.stdin.take()); // its guard: end of input ends it
        }
        let deadline = std::time::Instant::now() + DEADLINE;
        for mut simulator in self.running {
            while std::time::Instant::now() < deadline && matches!(simulator.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = simulator.child.kill();
            let _ = simulator.child.wait();
        }
    }
}

fn start_one(
    binary: &Path,
    dir: &Path,
    script: &'static Script,
    callbacks: SocketAddr,
) -> anyhow::Result<Simulator> {
    let behaviour = dir.join(format!("{}.behaviour.json", script.id));
    fs::write(&behaviour, script.behaviour)?;
    let ledger = dir.join(format!("{}.ledger.ndjson", script.id));
    let mut child = Command::new(binary)
        .args([
            "--listen",
            "127.0.0.1:0",
            "--dialect",
            script.dialect,
            "--currency",
            script.currency,
            "--seed",
            "11",
            "--callback-secret",
            SECRET,
            "--callback-url",
        ])
        .arg(format!("http://{callbacks}/callbacks/{}", script.id))
        .arg("--ledger")
        .arg(&ledger)
        .arg("--behaviour")
        .arg(&behaviour)
        .arg("--stdin-guard")
        .process_group(0) // Ctrl-C is for the demo alone: it stops its simulators last
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let stdout = child.stdout.take().context("the simulator has no output")?;
    let mut line = String::new();
    BufReader::new(stdout.take(4_096)).read_line(&mut line)?;
    let ready: serde_json::Value =
        serde_json::from_str(&line).with_context(|| format!("the simulator {} did not start", script.id))?;
    let address =
        ready["listening"].as_str().context("the simulator does not say where it listens")?.to_owned();
    Ok(Simulator { script, address, ledger, child })
}

fn write_secret(home: &Home, name: &str) -> anyhow::Result<()> {
    let dir = home.secrets();
    fs::create_dir_all(&dir)?;
    let path = dir.join(name);
    if path.exists() {
        return Ok(());
    }
    let mut file = fs::File::options().create_new(true).write(true).mode(0o600).open(&path)?;
    writeln!(file, "{SECRET}")?;
    Ok(())
}
