//! The sent-key log: one line per request, written before its first byte leaves.
//!
//! The intent in Postgres is what makes a request durable; this log serves a failover that lost Postgres' last commits.
//! It says under which keys this machine may have sent something since. A line is in the kernel's hands when
//! [`SentLog::append`] returns, so it survives a kill; it is on the disk a few milliseconds later. A machine that lost
//! its memory may have lost lines: each segment names the boot it was written in, and lines of another boot prove
//! nothing about what was *not* sent.

mod line;
mod reader;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

pub use self::line::SentLine;
use self::line::{HEADER_BYTES, Header, LINE_BYTES};
pub use self::reader::{SentLines, StoredLine, read_all};
use crate::fail_point::{Point, reached};
use crate::lock_file::LockFile;

/// The most lines of one [`SentLog::append`].
pub const APPEND_LINES_MAX: usize = 16_384;

/// The sync follows a write after this long at most, plus the sync before it.
const SYNC_DELAY: Duration = Duration::from_millis(3);

/// How a [`SentLog`] divides and keeps its lines.
#[derive(Clone, Copy, Debug)]
pub struct SentLogOptions {
    /// A segment file that reaches this size, in bytes, is followed by a new one.
    pub segment_bytes: u64,
    /// Segments whose last line is older than this, in milliseconds, are deleted. A segment is also closed after an
    /// eighth of it, so that a slow log is deleted in parts, too.
    pub keep_ms: u64,
}

impl Default for SentLogOptions {
    fn default() -> SentLogOptions {
        SentLogOptions { segment_bytes: 64 << 20, keep_ms: 24 * 3_600_000 }
    }
}

/// The writing side of the log in one directory. Dropping it syncs and closes it.
#[derive(Debug)]
pub struct SentLog {
    place: Place,
    syncer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Place {
    Disk(Arc<Shared>),
    /// For simulations.
    Memory(Mutex<Vec<SentLine>>),
}

#[derive(Debug)]
struct Shared {
    writing: Mutex<Writing>,
    dirtied: Condvar,
    _lock: LockFile,
}

#[derive(Debug)]
struct Writing {
    dir: PathBuf,
    options: SentLogOptions,
    segment: Segment,
    /// The lines of one append, encoded; kept for its capacity.
    buffer: Vec<u8>,
    /// Written since the last sync began.
    dirty: bool,
    closing: bool,
}

#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    number: u64,
    bytes: u64,
    started: SystemTime,
    /// A write or sync of it failed: the next append starts another.
    broken: bool,
}

impl SentLog {
    /// Opens the log in `dir` (made if missing) for writing, in a new segment, and deletes segments that are too old.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process writes there; else what the system said.
    pub fn open(dir: &Path, options: SentLogOptions) -> io::Result<SentLog> {
        fs::create_dir_all(dir)?;
        let lock = lock(dir)?;
        let number = reader::segments(dir)?.last().map_or(0, |(number, _)| number + 1);
        let segment = Segment::create(dir, number)?;
        let writing = Writing {
            dir: dir.to_owned(),
            options,
            segment,
            buffer: Vec::new(),
            dirty: false,
            closing: false,
        };
        writing.delete_old();
        let shared = Arc::new(Shared { writing: Mutex::new(writing), dirtied: Condvar::new(), _lock: lock });
        let syncer = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("sent-log-sync".to_owned())
                .spawn(move || shared.sync_until_closed())?
        };
        Ok(SentLog { place: Place::Disk(shared), syncer: Some(syncer) })
    }

    /// A log in memory, for simulations: no files, no thread.
    #[must_use]
    pub fn in_memory() -> SentLog {
        SentLog { place: Place::Memory(Mutex::default()), syncer: None }
    }

    /// The lines of a log in memory; none of one on disk (see [`read_all`]).
    #[must_use]
    pub fn lines_in_memory(&self) -> Vec<SentLine> {
        match &self.place {
            Place::Disk(_) => Vec::new(),
            Place::Memory(lines) => lines.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Writes the lines with one write(2). When it returns `Ok` they survive this process; only then may the first byte
    /// of any of these requests leave. The disk has them within about 5 ms, which is not waited for.
    ///
    /// # Errors
    /// What the system said, or [`io::ErrorKind::InvalidInput`] above [`APPEND_LINES_MAX`] lines. Nothing may be sent
    /// then. Lines of a failed append are not in the log.
    pub fn append(&self, lines: &[SentLine]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if lines.len() > APPEND_LINES_MAX {
            let text = format!("{} lines in one append, limit {APPEND_LINES_MAX}", lines.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let shared = match &self.place {
            Place::Disk(shared) => shared,
            Place::Memory(kept) => {
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(lines);
                return Ok(());
            }
        };
        let mut writing = shared.writing();
        writing.rotate_if_due()?;
        writing.write(lines)?;
        let was_clean = !std::mem::replace(&mut writing.dirty, true);
        drop(writing);
        if was_clean {
            shared.dirtied.notify_one();
        }
        Ok(())
    }
}

/// Lines of a log, oldest first.
pub type LinesSince = Box<dyn Iterator<Item = io::Result<SentLine>> + Send>;

impl SentLog {
    /// The lines of intents made at or after `from_us` (microseconds since 1970, this machine's clock), over all openings of
    /// this log, its own lines included. `None` when lines of that time were deleted by age.
    ///
    /// # Errors
    /// When a segment cannot be read; an item is an error where lines are damaged. The log is not complete then.
    pub fn lines_since(&self, from_us: i64) -> io::Result<Option<LinesSince>> {
        let wanted = move |line: &SentLine| line.intent_at_us >= from_us;
        match &self.place {
            Place::Memory(lines) => {
                let kept = lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Ok(Some(Box::new(kept.into_iter().filter(wanted).map(Ok))))
            }
            Place::Disk(shared) => {
                let dir = shared.writing().dir.clone();
                let lines = reader::read_since(&dir, from_us)?;
                Ok(lines.map(|lines| -> LinesSince {
                    let lines = lines.map(|stored| stored.map(|stored| stored.line));
                    Box::new(lines.filter(move |line| line.as_ref().map_or(true, wanted)))
                }))
            }
        }
    }
}

impl Drop for SentLog {
    fn drop(&mut self) {
        if let Place::Disk(shared) = &self.place {
            shared.writing().closing = true;
            shared.dirtied.notify_one();
        }
        if let Some(syncer) = self.syncer.take() {
            let _ = syncer.join();
        }
    }
}

impl Shared {
    fn writing(&self) -> MutexGuard<'_, Writing> {
        // A panic while it was held leaves at worst an unused buffer: every append encodes anew.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_until_closed(&self) {
        loop {
            let mut writing = self.writing();
            while !writing.dirty && !writing.closing {
                writing = self.dirtied.wait(writing).unwrap_or_else(PoisonError::into_inner);
            }
            if !writing.dirty {
                return;
            }
            if !writing.closing {
                // Lets more lines share the sync.
                drop(writing);
                std::thread::sleep(SYNC_DELAY);
                writing = self.writing();
            }
            writing.dirty = false;
            let (file, number) = (Arc::clone(&writing.segment.file), writing.segment.number);
            drop(writing);
            reached(Point::BeforeSentSync);
            if let Err(error) = file.sync_data() {
                tracing::error!(%error, "sent-key log does not reach the disk; starting a new segment");
                let mut writing = self.writing();
                writing.segment.broken |= writing.segment.number == number;
            }
            reached(Point::AfterSentSync);
        }
    }
}

impl Writing {
    fn write(&mut self, lines: &[SentLine]) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.reserve(lines.len() * LINE_BYTES);
        for line in lines {
            line.encode_to(&mut self.buffer);
        }
        let written = loop {
            match (&*self.segment.file).write(&self.buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        if matches!(written, Ok(bytes) if bytes == self.buffer.len()) {
            self.segment.bytes += self.buffer.len() as u64;
            return Ok(());
        }
        // A part of it may be there, and the reader stops at a torn line: take it away, or go on in another file.
        self.segment.broken |= self.segment.file.set_len(self.segment.bytes).is_err();
        written.and(Err(io::Error::new(io::ErrorKind::StorageFull, "the lines were written in part only")))
    }

    fn rotate_if_due(&mut self) -> io::Result<()> {
        let Segment { bytes, started, broken, .. } = self.segment;
        // A clock that was set back counts as due: rather one segment too many than one that is never closed.
        let old = started
            .elapsed()
            .map_or(true, |age| age.as_millis() >= u128::from(self.options.keep_ms / 8).max(1));
        let due = bytes >= self.options.segment_bytes || (old && bytes > HEADER_BYTES as u64);
        if !due && !broken {
            return Ok(());
        }
        // The syncer sees only the current file.
        if let Err(error) = self.segment.file.sync_data() {
            tracing::error!(%error, "sent-key log does not reach the disk");
        }
        self.segment = Segment::create(&self.dir, self.segment.number + 1)?;
        self.delete_old();
        Ok(())
    }

    /// Deletes segments by age, never the current one. A failure leaves a file too many and is logged only.
    fn delete_old(&self) {
        let keep = Duration::from_millis(self.options.keep_ms);
        let delete = |path: &Path| -> io::Result<()> {
            let age = SystemTime::now().duration_since(fs::metadata(path)?.modified()?).unwrap_or_default();
            if age > keep { fs::remove_file(path) } else { Ok(()) }
        };
        let old = reader::segments(&self.dir).unwrap_or_default();
        for (_, path) in old.iter().filter(|(number, _)| *number < self.segment.number) {
            if let Err(error) = delete(path) {
                tracing::warn!(%error, path = %path.display(), "old sent-key segment stays");
            }
        }
    }
}

impl Segment {
    fn create(dir: &Path, number: u64) -> io::Result<Segment> {
        let started = SystemTime::now();
        let header = Header { boot_id: line::current_boot_id()?, started_us: line::unix_us(started) };
        // Beside its name first: a reader never meets a segment without a header.
        let draft = dir.join("sent.draft");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&draft)?;
        file.write_all(&header.encode())?;
        file.sync_data()?;
        let path = dir.join(reader::segment_name(number));
        fs::rename(&draft, &path)?;
        File::open(dir)?.sync_all()?;
        let file = OpenOptions::new().append(true).open(&path)?;
        Ok(Segment { file: Arc::new(file), number, bytes: HEADER_BYTES as u64, started, broken: false })
    }
}

fn lock(dir: &Path) -> io::Result<LockFile> {
    LockFile::take(&dir.join("sent.lock"))?.ok_or_else(|| {
        let text = format!("sent-key log {} is written by another process", dir.display());
        io::Error::new(io::ErrorKind::WouldBlock, text)
    })
}

#[cfg(test)]
mod tests;
