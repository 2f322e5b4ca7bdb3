//! The machine: what it is, and how much of it others used.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// `f_type` of a tmpfs, where nothing reaches a disk.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What the figures were measured on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// The CPU's name.
    pub cpu: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The kernel.
    pub kernel: String,
    /// Whether the data lies in memory: then a commit costs nothing, and the figures are no durable ones.
    pub data_in_memory: bool,
}

/// `/proc/stat` at one instant, in ticks over all cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MachineTimes {
    busy: u64,
    steal: u64,
    total: u64,
}

impl Machine {
    /// Looks at this machine and the file system of `dir`.
    pub(super) fn look(dir: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let memory = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let data_in_memory = rustix::fs::statfs(dir).is_ok_and(|stat| stat.f_type == TMPFS_MAGIC);
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_mib: memory.unwrap_or(0) / 1_024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            data_in_memory,
        }
    }
}

impl MachineTimes {
    /// The counters now.
    pub(super) fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default()
    }

    /// The first line: own code, nice, system, idle, iowait, irq, softirq, steal; guests are inside the first two.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields = line.split_ascii_whitespace().take(8).map(|field| field.parse().ok());
        let fields: Vec<u64> = fields.collect::<Option<_>>()?;
        let [own, nice, system, idle, iowait, irq, softirq, steal] = fields.as_slice().try_into().ok()?;
        let busy = own + nice + system + irq + softirq;
        Some(Self { busy, steal, total: busy + idle + iowait + steal })
    }

    /// The shares of the whole machine since `before` that others of this system (all but `ours_ticks`) and the
    /// hypervisor took: 0 to 1.
    pub(super) fn others_since(self, before: Self, ours_ticks: f64) -> (f64, f64) {
        let total = self.total.saturating_sub(before.total) as f64;
        if total <= 0.0 {
            return (0.0, 0.0);
        }
        let busy = self.busy.saturating_sub(before.busy) as f64;
        let steal = self.steal.saturating_sub(before.steal) as f64;
        (((busy - ours_ticks) / total).clamp(0.0, 1.0), steal / total)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn others_are_what_is_busy_and_not_ours() {
        let at = |own: u64, steal: u64, idle: u64| {
            MachineTimes::parse(&format!(
                "intr 1\ncpu  {own} 0 10 {idle} 5 0 1 {steal} 3 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
            ))
            .unwrap()
        };
        let (before, after) = (at(100, 0, 1_000), at(160, 20, 1_020));
        let (others, steal) = after.others_since(before, 45.0);
        assert!((others - 0.15).abs() < 1e-9 && (steal - 0.2).abs() < 1e-9, "{others} {steal}");
        assert_eq!(after.others_since(after, 0.0), (0.0, 0.0));
        assert_eq!(MachineTimes::parse("cpu 1 2 3"), None);
        assert!(MachineTimes::now().total > 0);
    }
}
