//! The server's processes: started so that they die with us, stopped so that none stays behind.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{LauncherError, directory};

const POLL: Duration = Duration::from_millis(3);
/// After the fast shutdown has not ended the server, SIGQUIT gets this long.
const QUIT_STOP: Duration = Duration::from_secs(5);
/// Killed processes vanish within this, or the kernel holds them in a disk wait that nobody can end.
const KILL_STOP: Duration = Duration::from_secs(10);

/// The server's first process, not yet waited for.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// The parent thread lives as long as this does: the kernel's "your parent died" means the thread, not the process.
    hold: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the command, its output appended to `log`.
    pub(super) fn spawn(mut command: Command, log: &Path) -> io::Result<Server> {
        with_log(&mut command, log)?;
        let (spawned, outcome) = mpsc::channel();
        let (hold, held) = mpsc::channel();
        let keeper = std::thread::Builder::new().name("postgres-keeper".to_owned()).spawn(move || {
            let _ = spawned.send(command.spawn());
            let _ = held.recv();
        })?;
        let child = outcome.recv().map_err(|_| io::Error::other("the thread that starts it ended"))??;
        Ok(Server { child, hold: Some(hold), keeper: Some(keeper) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(describe(status)),
            Err(error) => Some(format!("cannot be watched: {error}")),
        }
    }

    /// Asks for a fast shutdown, after `patience` for an immediate one, and kills what is left then.
    pub(super) fn stop(mut self, patience: Duration, data: &Path) {
        if self.signal(Signal::INT) && !self.ends_within(patience) {
            tracing::warn!(pid = self.pid(), "postgres ignores the fast shutdown");
            self.signal(Signal::QUIT);
            self.ends_within(QUIT_STOP);
        }
        self.kill9(data);
    }

    /// Kills the first process, then those that it started, and returns when all are gone. The order matters: the
    /// first one would take a killed child for a crash and start anew.
    pub(super) fn kill9(mut self, data: &Path) {
        self.signal(Signal::KILL);
        self.ends_within(KILL_STOP);
        let deadline = Instant::now() + KILL_STOP;
        loop {
            let left = processes_on(data);
            if left.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                tracing::error!(?left, "postgres processes survive SIGKILL");
                break;
            }
            for pid in left {
                send(pid, Signal::KILL);
            }
            std::thread::sleep(POLL);
        }
        self.hold = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }

    /// False if it has ended already; its pid may then belong to another process.
    fn signal(&mut self, signal: Signal) -> bool {
        let running = self.ended().is_none();
        if running {
            send(self.child.id(), signal);
        }
        running
    }

    fn ends_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.ended().is_none() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }
}

/// Runs a program to its end, its output in `log`; killed at the deadline.
pub(super) fn run(
    mut command: Command,
    program: &'static str,
    log: &Path,
    deadline: Instant,
) -> Result<(), LauncherError> {
    let failed = |outcome| LauncherError::Failed { program, outcome, log_tail: directory::tail(log) };
    let io_failed = |source| LauncherError::Io {
        doing: "running a program with its log in",
        path: log.to_owned(),
        source,
    };
    File::create(log).map_err(io_failed)?;
    with_log(&mut command, log).map_err(io_failed)?;
    let mut child = command.spawn().map_err(io_failed)?;
    loop {
        match child.try_wait().map_err(io_failed)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(failed(describe(status))),
            None if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed("did not end in time".to_owned()));
            }
            None => std::thread::sleep(POLL),
        }
    }
}

/// The living Postgres processes whose working directory is `data`, as every process of a server's is.
pub(super) fn processes_on(data: &Path) -> Vec<u32> {
    let Ok(data) = data.canonicalize() else { return Vec::new() };
    let numbered = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = numbered.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let process = Path::new("/proc").join(pid.to_string());
        fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == data) && is_postgres(*pid)
    })
    .collect()
}

/// Whether a living process of this id is a Postgres server's. One that has ended but was not waited for does not live.
pub(super) fn is_postgres(pid: u32) -> bool {
    // `pid (name) state …`, where the name may hold anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let name = stat.split_once('(').map_or("", |(_, rest)| rest);
    let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
    name.starts_with("postgres") && !state.starts_with(['Z', 'X'])
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // One that has just ended needs no signal.
        let _ = kill_process(pid, signal);
    }
}

fn with_log(command: &mut Command, log: &Path) -> io::Result<()> {
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(())
}

fn describe(status: ExitStatus) -> String {
    format!("ended early ({status})")
}
