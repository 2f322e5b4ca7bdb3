//! One engine's place: its addresses, the proxies around it, and the process that sits there now.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use storage::fail_point;

use super::Settings;
use super::fault::Crash;
use super::process::{Engine, body_of, http};
use super::proxy::{Mode, Proxy};
use super::world::World;
use crate::sim::dice::Dice;

/// A place for an engine.
pub(super) struct Seat {
    /// Its admin interface.
    pub(super) api: String,
    /// Where it takes carriers' messages.
    pub(super) callbacks: String,
    carriers: Vec<(&'static str, String)>,
    pub(super) wires: Vec<Proxy>,
    pub(super) database: Proxy,
    database_dir: PathBuf,
    pub(super) log: PathBuf,
    /// What libfaketime reads the clock's error from.
    pub(super) faketime: PathBuf,
    pub(super) engine: Option<Engine>,
    /// Where it is to die.
    pub(super) crash: Option<Crash>,
    /// When it was first seen to be ready.
    pub(super) ready_since: Option<Instant>,
    /// Held memory at most, in bytes.
    pub(super) peak_bytes: u64,
}

impl Seat {
    pub(super) fn new(
        world: &World,
        number: usize,
        (api, callbacks): (String, String),
        dice: &Dice,
    ) -> anyhow::Result<Self> {
        let mut carriers = Vec::new();
        let mut wires = Vec::new();
        for mock in &world.mocks {
            let (proxy, address) = world.carrier_proxy(mock, dice.next())?;
            carriers.push((mock.id, address));
            wires.push(proxy);
        }
        let (database, database_dir) = world.database_proxy(number, dice.next())?;
        Ok(Self {
            api,
            callbacks,
            carriers,
            wires,
            database,
            database_dir,
            log: world.dir.join(format!("engine-{number}.log")),
            faketime: world.dir.join(format!("engine-{number}.faketime")),
            engine: None,
            crash: None,
            ready_since: None,
            peak_bytes: 0,
        })
    }

    /// Starts an engine that dies at `crash`, at the given passing of it.
    pub(super) fn start(
        &mut self,
        world: &World,
        settings: &Settings,
        crash: Option<(Crash, u64)>,
        clock: Option<&std::path::Path>,
    ) -> anyhow::Result<()> {
        let mut command: Command = world.toll(settings, Some(&self.database_dir));
        command.args(["serve", "--listen", &self.api, "--callback-listen", &self.callbacks]);
        for (id, address) in &self.carriers {
            command.arg("--carrier-base").arg(format!("{id}=http://{address}"));
        }
        if let Some((Crash::Code(point), passing)) = crash {
            command.env(fail_point::VARIABLE, fail_point::armed(point, passing));
        }
        if let Some(library) = clock {
            std::fs::write(&self.faketime, "+0\n")?;
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", &self.faketime)
                .env("FAKETIME_CACHE_DURATION", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("FAKETIME_DONT_RESET", "1");
        }
        self.clean();
        let engine = Engine::start(&mut command, &self.log)?;
        if let Some((Crash::Wire(at), _)) = crash {
            let pid = engine.pid();
            self.wires.iter().for_each(|wire| wire.set(Mode::Kill { pid, at }));
        }
        self.engine = Some(engine);
        self.crash = crash.map(|(crash, _)| crash);
        self.ready_since = None;
        Ok(())
    }

    /// All proxies let everything pass.
    pub(super) fn clean(&self) {
        self.wires.iter().chain([&self.database]).for_each(|proxy| proxy.set(Mode::Clean));
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(engine) = &self.engine {
            engine.signal(signal);
        }
    }

    pub(super) fn ready(&self) -> bool {
        http(&self.api, "GET", "/readyz", "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// For how long it has been ready.
    pub(super) fn at_work(&mut self) -> Duration {
        if self.ready_since.is_none() && self.ready() {
            self.ready_since = Some(Instant::now());
        }
        self.ready_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn status(&self) -> Option<serde_json::Value> {
        body_of(&http(&self.api, "GET", "/v1/status", "").ok()?)
    }

    /// The end of its log, for reports.
    pub(super) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Notes what it holds.
    pub(super) fn weigh(&mut self) {
        if let Some((peak, _)) = self.engine.as_ref().and_then(Engine::memory) {
            self.peak_bytes = self.peak_bytes.max(peak);
        }
    }
}
