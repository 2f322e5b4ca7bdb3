//! Lines that could not be taken: a file of them that people mend and import again.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::lines::split;
use super::row::{Columns, REJECT_COLUMNS, looks_like_card};

/// A line that could not be taken. Its fields hold personal data; the reason does not.
#[derive(Debug, Clone, Copy)]
pub struct Rejected<'r> {
    /// Its number, from 1; the header is line 1.
    pub line: u64,
    /// Why. Never repeats what the line says.
    pub reason: &'r str,
    /// The names of the file's columns.
    pub columns: &'r [String],
    /// What the line says, control characters and what is no UTF-8 replaced, a reference that could be a card's
    /// number hidden. A line that cannot be cut into fields is one field.
    pub fields: &'r [Cow<'r, str>],
}

/// Writes rejected lines as CSV: `line,reason,` and the file's own columns. A mended file can be imported as it is.
///
/// It holds MSISDNs, so only its owner may read it (mode 0600); an existing file is never touched.
pub struct RejectFile {
    path: PathBuf,
    file: BufWriter<File>,
    rows: u64,
}

impl RejectFile {
    /// Makes the file.
    ///
    /// # Errors
    /// [`io::Error`]; [`io::ErrorKind::AlreadyExists`] when something has this name.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), rows: 0 })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`io::Error`] when the file cannot be written.
    pub fn write(&mut self, rejected: &Rejected<'_>) -> io::Result<()> {
        if self.rows == 0 {
            let names = REJECT_COLUMNS.iter().copied();
            write_row(&mut self.file, names.chain(rejected.columns.iter().map(String::as_str)))?;
        }
        self.rows += 1;
        let line = rejected.line.to_string();
        let fields = rejected.fields.iter().map(AsRef::as_ref);
        write_row(&mut self.file, [line.as_str(), rejected.reason].into_iter().chain(fields))
    }

    /// Makes everything durable and gives the number of lines; a file without any is removed.
    ///
    /// # Errors
    /// [`io::Error`] when the file cannot be written.
    pub fn finish(mut self) -> io::Result<u64> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        if self.rows == 0 {
            std::fs::remove_file(&self.path)?;
        }
        Ok(self.rows)
    }
}

/// Hands a line to `rejects`, in the form in which it may be kept.
pub(super) fn keep(
    line: u64,
    reason: &str,
    columns: &Columns,
    raw: &[u8],
    rejects: &mut (dyn FnMut(&Rejected<'_>) -> io::Result<()> + Send),
) -> io::Result<()> {
    let mut text = String::from_utf8_lossy(raw);
    if text.chars().any(char::is_control) {
        text = text.replace(char::is_control, "\u{fffd}").into();
    }
    let mut fields = match split(&text) {
        Ok(mut fields) => {
            fields.drain(..columns.skipped.min(fields.len()));
            fields
        }
        Err(_) => vec![Cow::Borrowed(text.as_ref())],
    };
    for (at, field) in fields.iter_mut().enumerate() {
        if !columns.is_msisdn(at) && looks_like_card(field) {
            *field = Cow::Owned(hidden(field));
        }
    }
    rejects(&Rejected { line, reason, columns: &columns.names, fields: &fields })
}

/// A card's number as it may be kept: the last four characters only.
fn hidden(number: &str) -> String {
    let shown = number.len().saturating_sub(4);
    number.char_indices().map(|(at, c)| if at < shown { '*' } else { c }).collect()
}

fn write_row<'f>(out: &mut impl Write, fields: impl Iterator<Item = &'f str>) -> io::Result<()> {
    for (at, field) in fields.enumerate() {
        if at > 0 {
            out.write_all(b",")?;
        }
        if field.contains([',', '"']) {
            write!(out, "\"{}\"", field.replace('"', "\"\""))?;
        } else {
            out.write_all(field.as_bytes())?;
        }
    }
    out.write_all(b"\n")
}
