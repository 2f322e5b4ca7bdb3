//! Reading a log back: this machine's after a restart, another process's after its death.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::vec;

use super::line::{HEADER_BYTES, Header, LINE_BYTES, SentLine};

/// A line and where it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredLine {
    /// The line.
    pub line: SentLine,
    /// The boot of the machine in which it was written, as `/proc/sys/kernel/random/boot_id` names it.
    pub boot_id: [u8; 16],
}

/// The lines of a log, oldest first; see [`read_all`].
#[derive(Debug)]
pub struct SentLines {
    segments: vec::IntoIter<(u64, PathBuf)>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    path: PathBuf,
    file: BufReader<File>,
    boot_id: [u8; 16],
    started_us: i64,
    lines: u64,
}

/// Reads every line in `dir`, in the order of writing, in bounded memory. An empty or missing log has none.
///
/// A torn line at the end of a segment, as a kill or a full disk leaves it, ends that segment without an error. A bad
/// line with good ones behind it is damage: the iterator yields an error of kind [`io::ErrorKind::InvalidData`] and goes
/// on with the next segment, and the log does not count as complete.
///
/// # Errors
/// If the directory cannot be listed.
pub fn read_all(dir: &Path) -> io::Result<SentLines> {
    let segments = match segments(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    Ok(SentLines { segments: segments.into_iter(), current: None })
}

/// As [`read_all`], but leaves out segments that were closed before `from_us` (microseconds since 1970, this machine's
/// clock). `None` when lines of that time were deleted by age: what is left proves nothing about what was *not* sent.
///
/// # Errors
/// If the directory cannot be listed or a segment's header cannot be read.
pub(super) fn read_since(dir: &Path, from_us: i64) -> io::Result<Option<SentLines>> {
    let mut started = Vec::new();
    for (number, path) in segments(dir)? {
        started.push((number, Current::open(path.clone())?.started_us, path));
    }
    let first = started.iter().rposition(|(_, started_us, _)| *started_us <= from_us);
    if first.is_none() && started.first().is_some_and(|(number, ..)| *number > 0) {
        return Ok(None);
    }
    let wanted: Vec<(u64, PathBuf)> =
        started.into_iter().skip(first.unwrap_or(0)).map(|(number, _, path)| (number, path)).collect();
    Ok(Some(SentLines { segments: wanted.into_iter(), current: None }))
}

impl Iterator for SentLines {
    type Item = io::Result<StoredLine>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(current) = &mut self.current {
                match current.next_line() {
                    Ok(Some(line)) => return Some(Ok(StoredLine { line, boot_id: current.boot_id })),
                    Ok(None) => self.current = None,
                    Err(error) => {
                        self.current = None;
                        return Some(Err(error));
                    }
                }
            }
            let (_, path) = self.segments.next()?;
            match Current::open(path) {
                Ok(current) => self.current = Some(current),
                // Deleted by age since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Current {
    fn open(path: PathBuf) -> io::Result<Current> {
        let mut file = BufReader::with_capacity(LINE_BYTES * 1024, File::open(&path)?);
        let mut header = [0; HEADER_BYTES];
        let header = match fill(&mut file, &mut header)? {
            HEADER_BYTES => Header::decode(&header),
            _ => None,
        };
        let Header { boot_id, started_us } =
            header.ok_or_else(|| damaged(format!("{} has no valid header", path.display())))?;
        Ok(Current { path, file, boot_id, started_us, lines: 0 })
    }

    fn next_line(&mut self) -> io::Result<Option<SentLine>> {
        let mut bytes = [0; LINE_BYTES];
        if fill(&mut self.file, &mut bytes)? < LINE_BYTES {
            return Ok(None);
        }
        if let Some(line) = SentLine::decode(&bytes) {
            self.lines += 1;
            return Ok(Some(line));
        }
        while fill(&mut self.file, &mut bytes)? == LINE_BYTES {
            if SentLine::decode(&bytes).is_some() {
                let text = format!("{}: line {} is damaged", self.path.display(), self.lines + 1);
                return Err(damaged(text));
            }
        }
        Ok(None)
    }
}

/// The segments in `dir` by number, lowest first.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("sent-")?.strip_suffix(".log")?.parse().ok());
        segments.extend(number.map(|number: u64| (number, entry.path())));
    }
    segments.sort_unstable();
    Ok(segments)
}

pub(super) fn segment_name(number: u64) -> String {
    format!("sent-{number:012}.log")
}

/// Reads until `bytes` is full or the file ends; returns how many bytes were read.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn damaged(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
