//! What processes cost, from `/proc`: CPU seconds and memory.

use std::fs;

use anyhow::Context;

/// Linux counts CPU time for programs in hundredths of a second on every architecture that we run on.
pub(super) const TICKS_PER_S: f64 = 100.0;
/// How often the process tree is read again when it changed meanwhile.
const TRIES_MAX: usize = 10;

/// The CPU part of `/proc/<pid>/stat`, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessStat {
    parent: u32,
    /// Its own threads.
    own: u64,
    /// Children that ended and were waited for, with theirs.
    reaped: u64,
}

/// CPU seconds of one process with all its threads.
pub(super) fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let stat = read_stat(pid).with_context(|| format!("process {pid} is gone"))?;
    Ok((stat.own + stat.reaped) as f64 / TICKS_PER_S)
}

/// CPU seconds of a process and everything that it ever started and waited for, such as a postmaster and its backends.
pub(super) fn tree_cpu_s(root: u32) -> anyhow::Result<f64> {
    let mut last = None;
    for _ in 0..TRIES_MAX {
        // A child that ends between two reads would be counted twice or not at all: the root's reaped time tells.
        let before = read_stat(root).with_context(|| format!("process {root} is gone"))?.reaped;
        let all: Vec<(u32, ProcessStat)> =
            pids().into_iter().filter_map(|pid| Some((pid, read_stat(pid)?))).collect();
        let after = read_stat(root).with_context(|| format!("process {root} is gone"))?.reaped;
        last = Some(tree_ticks(root, &all) as f64 / TICKS_PER_S);
        if before == after {
            break;
        }
    }
    last.context("a process tree was never read")
}

/// Resident memory of a process in bytes.
pub(super) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    memory_of(pid, "VmRSS:")
}

/// The most that it ever was.
pub(super) fn resident_peak_bytes(pid: u32) -> anyhow::Result<u64> {
    memory_of(pid, "VmHWM:")
}

fn memory_of(pid: u32, name: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib =
        line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| format!("process {pid} tells no memory"))? * 1_024)
}

fn tree_ticks(root: u32, all: &[(u32, ProcessStat)]) -> u64 {
    let mut inside = vec![root];
    let mut ticks = 0;
    let mut at = 0;
    while let Some(&pid) = inside.get(at) {
        at += 1;
        if let Some((_, stat)) = all.iter().find(|(known, _)| *known == pid) {
            ticks += stat.own + stat.reaped;
        }
        inside.extend(
            all.iter().filter(|(known, stat)| stat.parent == pid && *known != pid).map(|(known, _)| *known),
        );
    }
    ticks
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn read_stat(pid: u32) -> Option<ProcessStat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state ppid … utime stime cutime cstime …`; the name may hold anything, brackets and spaces included.
fn parse_stat(text: &str) -> Option<ProcessStat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let times: Vec<u64> = fields.skip(9).take(4).map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let [own, system, children_own, children_system] = times.as_slice().try_into().ok()?;
    Some(ProcessStat { parent, own: own + system, reaped: children_own + children_system })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(pid: u32, name: &str, parent: u32, times: [u64; 4]) -> String {
        let [own, system, children_own, children_system] = times;
        format!(
            "{pid} ({name}) S {parent} {pid} {pid} 0 -1 4194560 10 20 30 40 {own} {system} {children_own} {children_system} \
             20 0 1 0 12345 1000000 200 18446744073709551615 0 0"
        )
    }

    #[test]
    fn a_stat_line_is_read_whatever_the_name_holds() {
        for name in ["postgres", "postgres: writer) S 1 (x", ") ) )", "a b"] {
            let stat = parse_stat(&line(7, name, 3, [1, 20, 300, 4_000])).unwrap();
            assert_eq!(stat, ProcessStat { parent: 3, own: 21, reaped: 4_300 });
        }
        assert_eq!(parse_stat("7 (postgres) S 1 2 3"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_tree_has_its_children_its_dead_and_nobody_else() {
        let stat = |parent, own, reaped| ProcessStat { parent, own, reaped };
        let all = [
            (1, stat(0, 1_000, 1_000)),
            (10, stat(1, 5, 70)),
            (11, stat(10, 20, 0)),
            (12, stat(11, 3, 4)),
            (20, stat(1, 900, 0)),
        ];
        assert_eq!(tree_ticks(10, &all), 5 + 70 + 20 + 3 + 4);
        assert_eq!(tree_ticks(12, &all), 7);
    }

    #[test]
    fn this_process_costs_cpu_and_memory() {
        let pid = std::process::id();
        let before = cpu_s(pid).unwrap();
        let mut sum = 0_u64;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while cpu_s(pid).unwrap() < before + 0.05 {
            assert!(std::time::Instant::now() < deadline);
            sum = (0..100_000_u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        assert!(tree_cpu_s(pid).unwrap() >= before + 0.05);
        assert!(resident_bytes(pid).unwrap() > 1 << 20);
    }
}
