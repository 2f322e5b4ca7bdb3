//! Takes a carrier's reconciliation file in: the raw bytes are kept first, sealed; then it is read as a whole; and only then
//! its rows are matched and given to the owners of their shards ([`matching`]).
//!
//! The digest of its bytes is a file's identity: the same file again changes nothing, and goes on where the last attempt to
//! match it ended. What is not complete is kept and proves nothing: a cut or changed file may lack rows, and which of its
//! amounts is the wrong one cannot be told.

mod asked;
mod doubles;
mod matching;
mod sealed;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use carriers::{CarrierDefinition, FileRow, FileSummary};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use storage::pg::{
    Actor, FileRead, FileRecord, FileState, NewFile, StoreError, audit, file_chunk, files, is_held,
    keep_chunk, keep_file, lock_files, note_matched, read_file,
};
use storage::vault::{Vault, VaultError};

pub(crate) use asked::attempt_as_asked;
use doubles::Keys;
use matching::{Matching, key_of};
use sealed::FileSeal;
pub use sealed::open_file_row;

/// Bytes of a file at most.
pub const FILE_BYTES_MAX: u64 = 256 * 1_024 * 1_024;
/// Pieces in which it is kept, and read again.
const CHUNK_BYTES: usize = 256 * 1_024;
/// Rows that are matched in one commit.
const BATCH_ROWS: usize = 500;
const NAME_CHARS_MAX: usize = 200;

/// Why a file was not taken in. What is wrong inside a file is no error: it is kept, and its flaw told.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// More bytes than are taken.
    #[error("{path} has more than {FILE_BYTES_MAX} bytes: ask the carrier for shorter spans")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// A pipe, a device, a folder: it is read twice.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// What was named.
        path: String,
    },
    /// Its name has to say which day it covers. The same bytes are the same file whatever they are called, so nothing is kept.
    #[error("{path} cannot be taken in under this name: {what}; nothing was kept")]
    Name {
        /// The file.
        path: String,
        /// What is wrong with its name.
        what: String,
    },
    /// Nothing in it.
    #[error("{path} is empty")]
    Empty {
        /// The file.
        path: String,
    },
    /// Somebody wrote into it meanwhile.
    #[error("{path} changed while it was read: nothing was kept")]
    Changed {
        /// The file.
        path: String,
    },
    /// The carrier's file says nothing about reconciliation files.
    #[error("carrier {carrier} has no [file] in its definition: say there how its files are read")]
    NoDialect {
        /// The carrier.
        carrier: String,
    },
    /// Another process takes one in.
    #[error("another process takes a file of carrier {carrier} in: wait for it")]
    Busy {
        /// The carrier.
        carrier: String,
    },
    /// Attempts that a failover lost are not here again: their rows would count as orphans, and the same file is not matched
    /// twice.
    #[error(
        "shards of carrier {carrier} are held after a failover: take the file in when `toll ops quarantine` shows none; nothing \
         was kept"
    )]
    Held {
        /// The carrier.
        carrier: String,
    },
    /// What is kept does not open.
    #[error("file {id} does not open: {source}")]
    Sealed {
        /// Its number.
        id: i64,
        /// Why.
        source: VaultError,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A file that was taken in.
#[derive(Debug, Clone)]
pub struct Taken {
    /// As it is kept now.
    pub record: FileRecord,
    /// The same bytes were taken in before: nothing was done.
    pub again: bool,
}

/// Takes files of one carrier in.
pub struct FileTaker<'a> {
    /// What seals and opens.
    pub vault: &'a Vault,
    /// Whose files.
    pub carrier_no: i32,
    /// How they are read.
    pub definition: &'a CarrierDefinition,
    /// Who does it: stands in the audit log.
    pub actor: &'a Actor,
}

impl FileTaker<'_> {
    /// Takes a file in, to its end.
    ///
    /// # Errors
    /// [`FileError`]. Called again with the same file it goes on where it ended.
    pub async fn take(&self, conn: &mut PgConnection, path: &Path) -> Result<Taken, FileError> {
        let carrier = || self.definition.id.to_string();
        if self.definition.file_zone().is_none() {
            return Err(FileError::NoDialect { carrier: carrier() });
        }
        if !lock_files(conn, self.carrier_no).await? {
            return Err(FileError::Busy { carrier: carrier() });
        }
        if is_held(conn, self.carrier_no).await? {
            return Err(FileError::Held { carrier: carrier() });
        }
        let (digest, bytes) = digest_of(path)?;
        let same = Some((self.carrier_no, digest));
        let kept = match files(conn, None, same, 1).await?.pop() {
            Some(kept) => kept,
            None => {
                if let Some(what) = self.definition.file_name_flaw(&name_of(path)) {
                    return Err(FileError::Name { path: path.display().to_string(), what });
                }
                let id = self.keep(conn, path, digest, bytes).await?;
                self.record(conn, id).await?
            }
        };
        let state = FileState::from_number(kept.state).unwrap_or(FileState::Kept);
        if !matches!(state, FileState::Kept | FileState::Matching) {
            return Ok(Taken { record: kept, again: true });
        }
        self.read_and_match(conn, &kept).await?;
        Ok(Taken { record: self.record(conn, kept.id).await?, again: false })
    }

    async fn record(&self, conn: &mut PgConnection, id: i64) -> Result<FileRecord, FileError> {
        let record = files(conn, Some(id), None, 1).await?.pop();
        record.ok_or_else(|| StoreError::Broken(format!("file {id} is gone")).into())
    }

    /// The raw bytes, in one commit with the act.
    async fn keep(
        &self,
        conn: &mut PgConnection,
        path: &Path,
        digest: [u8; 32],
        bytes: u64,
    ) -> Result<i64, FileError> {
        let sealing = |source| FileError::Sealed { id: 0, source };
        let salt = self.vault.new_salt().map_err(sealing)?;
        let kek_version = self.vault.current_kek_version();
        let seal =
            FileSeal::new(self.vault, self.carrier_no, &digest, &salt, kek_version).map_err(sealing)?;
        let name = name_of(path);
        let new = NewFile {
            carrier_no: self.carrier_no,
            digest,
            salt,
            kek_version,
            name: &name,
            bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            taken_by: &self.actor.who,
        };
        let mut tx = conn.begin().await.map_err(StoreError::from)?;
        let id = keep_file(&mut tx, &new).await?;
        let id = id.ok_or_else(|| StoreError::Broken("the file was kept meanwhile".to_owned()))?;
        let mut input = open(path)?;
        let mut again = Sha256::new();
        let mut no = 0;
        loop {
            let chunk = next_chunk(&mut input, path)?;
            if chunk.is_empty() {
                break;
            }
            again.update(&chunk);
            keep_chunk(&mut tx, id, no, &seal.seal_chunk(no, &chunk).map_err(sealing)?).await?;
            no += 1;
        }
        if <[u8; 32]>::from(again.finalize()) != digest {
            return Err(FileError::Changed { path: path.display().to_string() });
        }
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let details = serde_json::json!({ "file": id, "name": name, "bytes": bytes, "sha256": hex });
        audit(&mut tx, self.actor, "file", &self.definition.id, &details.to_string()).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(id)
    }

    async fn read_and_match(&self, conn: &mut PgConnection, kept: &FileRecord) -> Result<(), FileError> {
        let seal = FileSeal::of_record(self.vault, kept)
            .map_err(|source| FileError::Sealed { id: kept.id, source })?;
        let mut keys = Keys::default();
        let summary = self.pass(conn, kept, &seal, &mut Rows::Survey(&mut keys)).await?;
        let us = |at: Timestamp| at.as_microsecond();
        let sums: Vec<String> =
            summary.sums.iter().map(|(currency, minor)| format!("{minor} {currency}")).collect();
        let flaw = summary.flaw.as_ref().map(ToString::to_string);
        let read = FileRead {
            covers_us: summary.covers.map(|covers| (us(covers.from), us(covers.until))),
            rows: i64::try_from(summary.rows).unwrap_or(i64::MAX),
            sums: &sums.join(", "),
            flaw: flaw.as_deref(),
        };
        let (flaw, contradicts) = read_file(conn, kept.id, &read).await?;
        let mut matching = Matching {
            taker: self,
            file: kept,
            seal: &seal,
            proven: flaw.is_none() && contradicts.is_none(),
            foreign_kept: kept.foreign_rows,
            doubles: keys.doubles(),
        };
        self.pass(conn, kept, &seal, &mut Rows::Match(&mut matching)).await?;
        note_matched(conn, kept.id, 0, storage::pg::FileCounts::default(), true).await?;
        Ok(())
    }

    /// Reads the kept file from its beginning to its end; its rows are looked at, or matched where they are not yet.
    async fn pass(
        &self,
        conn: &mut PgConnection,
        kept: &FileRecord,
        seal: &FileSeal,
        then: &mut Rows<'_, '_>,
    ) -> Result<FileSummary, FileError> {
        let reader = self.definition.file_reader(&kept.name);
        let mut reader =
            reader.ok_or_else(|| FileError::NoDialect { carrier: self.definition.id.to_string() })?;
        let mut rows: Vec<FileRow> = Vec::new();
        for no in 0.. {
            let Some(sealed) = file_chunk(conn, kept.id, no).await? else { break };
            let chunk =
                seal.open_chunk(no, &sealed).map_err(|source| FileError::Sealed { id: kept.id, source })?;
            reader.feed(&chunk, &mut rows);
            flush(conn, &mut rows, then, BATCH_ROWS).await?;
        }
        let summary = reader.end(&mut rows);
        flush(conn, &mut rows, then, 1).await?;
        Ok(summary)
    }
}

/// What is done with the rows of a pass.
enum Rows<'a, 'm> {
    /// Their keys are noted.
    Survey(&'a mut Keys),
    Match(&'a mut Matching<'m>),
}

/// Matches rows in batches while there are at least so many, or notes their keys.
async fn flush(
    conn: &mut PgConnection,
    rows: &mut Vec<FileRow>,
    then: &mut Rows<'_, '_>,
    least: usize,
) -> Result<(), FileError> {
    let matching = match then {
        Rows::Survey(keys) => {
            rows.drain(..).filter_map(|row| key_of(&row)).for_each(|key| keys.add(key));
            return Ok(());
        }
        Rows::Match(matching) => matching,
    };
    let matched = u64::try_from(matching.file.matched_line).unwrap_or(0);
    rows.retain(|row| row.line > matched);
    while rows.len() >= least.max(1) {
        let batch: Vec<FileRow> = rows.drain(..rows.len().min(BATCH_ROWS)).collect();
        matching.settle(conn, &batch).await?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, FileError> {
    let io = |source| FileError::Io { path: path.display().to_string(), source };
    // Opening a pipe would wait for whoever writes into it.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(FileError::NotAFile { path: path.display().to_string() });
    }
    File::open(path).map_err(io)
}

/// The next piece; empty at the end.
fn next_chunk(input: &mut File, path: &Path) -> Result<Vec<u8>, FileError> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let read = input.take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
    read.map_err(|source| FileError::Io { path: path.display().to_string(), source })?;
    Ok(chunk)
}

fn digest_of(path: &Path) -> Result<([u8; 32], u64), FileError> {
    let mut input = open(path)?;
    let mut digest = Sha256::new();
    let mut bytes = 0;
    loop {
        let chunk = next_chunk(&mut input, path)?;
        if chunk.is_empty() {
            break;
        }
        bytes += chunk.len() as u64;
        if bytes > FILE_BYTES_MAX {
            return Err(FileError::TooLarge { path: path.display().to_string() });
        }
        digest.update(&chunk);
    }
    match bytes {
        0 => Err(FileError::Empty { path: path.display().to_string() }),
        _ => Ok((digest.finalize().into(), bytes)),
    }
}

/// The name without its folder; what a terminal could stumble over is replaced.
fn name_of(path: &Path) -> String {
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let name: String =
        name.chars().map(|c| if c.is_control() { '?' } else { c }).take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "?".to_owned() } else { name }
}
