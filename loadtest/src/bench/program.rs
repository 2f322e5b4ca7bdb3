//! Child processes that never outlive the benchmark.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

const POLL: Duration = Duration::from_millis(10);
const LOG_TAIL_BYTES: u64 = 4_096;
/// Connections to a slow carrier are many, on both sides.
const FILES_WANTED: u64 = 16_384;

/// A running program; killed when dropped, and by the kernel when this process dies.
pub(super) struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// "Your parent died" means the thread that started it: this one lives as long as the program does.
    hold: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Program {
    /// Starts it; what it says on stderr goes to `log`, what it says on stdout to `log` with the ending `.out`.
    pub(super) fn start(command: Command, name: &'static str, log: &Path) -> anyhow::Result<Self> {
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        guarded.stdin(Stdio::piped());
        guarded.stdout(File::create(log.with_extension("out"))?).stderr(File::create(log)?);
        let (spawned, outcome) = mpsc::channel();
        let (hold, held) = mpsc::channel::<()>();
        let keeper = std::thread::Builder::new().name(format!("{name}-keeper")).spawn(move || {
            let _ = spawned.send(guarded.spawn());
            let _ = held.recv();
        })?;
        let child = outcome.recv().context("the thread that starts programs ended")?;
        let child = child.with_context(|| format!("cannot start {name} (by setpriv)"))?;
        Ok(Self { name, child, log: log.to_owned(), hold: Some(hold), keeper: Some(keeper) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log when it has ended.
    pub(super) fn still_runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                Err(anyhow!("{} ended ({status}); the end of its log:\n{}", self.name, tail(&self.log)))
            }
        }
    }

    /// The first whole line on its stdout, waited for until the deadline.
    pub(super) async fn first_line(&mut self, patience: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let said = std::fs::read_to_string(self.log.with_extension("out"))?;
            if let Some((line, _)) = said.split_once('\n') {
                return Ok(line.to_owned());
            }
            self.still_runs()?;
            if Instant::now() >= deadline {
                bail!("{} did not say that it is ready within {} s", self.name, patience.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for it to end well by itself.
    async fn end(mut self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(_) => self.still_runs()?,
                None if Instant::now() >= deadline => {
                    bail!(
                        "{} did not end within {} s; the end of its log:\n{}",
                        self.name,
                        patience.as_secs(),
                        tail(&self.log)
                    );
                }
                None => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Asks it to stop and waits for that.
    pub(super) async fn stop(self, patience: Duration) -> anyhow::Result<()> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop {}", self.name))?;
        }
        self.end(patience).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.hold = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// `toll` with the benchmark's data folder, book and database.
pub(super) fn toll(binary: &Path, dir: &Path, database_url: &str) -> Command {
    let mut command = Command::new(binary);
    command.arg("--data").arg(dir.join("data")).arg("--config").arg(dir.join("config"));
    command.args(["--database", database_url]);
    command
}

/// Runs a program to its end.
pub(super) async fn run_to_end(
    command: Command,
    name: &'static str,
    log: &Path,
    patience: Duration,
) -> anyhow::Result<()> {
    Program::start(command, name, log)?.end(patience).await
}

/// Raises the soft limit of open files, for us and what we start, as far as the hard limit allows.
pub(super) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(FILES_WANTED, |most| most.min(FILES_WANTED));
    if limit.current.is_some_and(|now| now < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn log(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("toll-bench-program-{name}-{}.log", std::process::id()))
    }

    #[tokio::test]
    async fn programs_are_heard_stopped_and_never_left_behind() {
        let path = log("run");
        let mut program = Program::start(shell("echo ready; exec sleep 60"), "sleeper", &path).unwrap();
        assert_eq!(program.first_line(Duration::from_secs(10)).await.unwrap(), "ready");
        program.still_runs().unwrap();
        let pid = program.pid();
        drop(program);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());

        let failed =
            run_to_end(shell("echo why >&2; exit 3"), "failing", &path, Duration::from_secs(10)).await;
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("exit status: 3") && text.contains("why"), "{text}");
        let slow = run_to_end(shell("exec sleep 60"), "slow", &path, Duration::from_millis(50)).await;
        assert!(slow.unwrap_err().to_string().contains("did not end within"));
        run_to_end(shell("true"), "quick", &path, Duration::from_secs(10)).await.unwrap();
        let polite = shell("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done");
        let mut program = Program::start(polite, "polite", &path).unwrap();
        program.first_line(Duration::from_secs(10)).await.unwrap();
        program.stop(Duration::from_secs(10)).await.unwrap();
        for path in [path.with_extension("out"), path] {
            std::fs::remove_file(path).unwrap();
        }
    }
}
