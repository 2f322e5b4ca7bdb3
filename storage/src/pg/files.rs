//! Carriers' reconciliation files: kept raw and sealed, then matched row by row by whoever takes them in.

use sqlx::postgres::PgConnection;

use super::StoreError;
use super::resolution::AttemptKey;

/// What became of a file. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum FileState {
    /// Kept, nothing of it read.
    Kept = 0,
    /// Its rows are being matched.
    Matching = 1,
    /// Complete and matched: what is absent from it counts.
    Complete = 2,
    /// Something is wrong with it: it proves nothing.
    Incomplete = 3,
    /// Another complete file of the same span has other content: neither proves anything by absence.
    Contradicts = 4,
}

impl FileState {
    /// The word for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Matching => "not_matched",
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Contradicts => "contradicts",
        }
    }

    /// The state of a kept number.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        [Self::Kept, Self::Matching, Self::Complete, Self::Incomplete, Self::Contradicts]
            .into_iter()
            .find(|state| *state as i16 == number)
    }
}

/// What became of a row. The number is what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum FileRowState {
    /// Given to the owner of the shard as evidence.
    Given = 1,
    /// Contradicts the attempt, or what is recorded of it: a case.
    Conflict = 2,
    /// Our key, and no attempt of ours.
    Orphan = 3,
    /// A key that is not of our form: somebody else's.
    Foreign = 4,
    /// Says nothing that counts.
    Nothing = 5,
    /// Of a file that proves nothing.
    Unproven = 6,
}

impl FileRowState {
    /// The word for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Conflict => "conflict",
            Self::Orphan => "orphan",
            Self::Foreign => "foreign",
            Self::Nothing => "nothing",
            Self::Unproven => "unproven",
        }
    }

    /// The state of a kept number.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        [Self::Given, Self::Conflict, Self::Orphan, Self::Foreign, Self::Nothing, Self::Unproven]
            .into_iter()
            .find(|state| *state as i16 == number)
    }
}

/// A file to keep.
#[derive(Debug, Clone)]
pub struct NewFile<'a> {
    /// Whose.
    pub carrier_no: i32,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    /// What its key is derived from.
    pub salt: [u8; 16],
    /// Under which key-encryption key.
    pub kek_version: i16,
    /// As it was called: 1 to 200 characters.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: i64,
    /// Who took it in: 1 to 64 characters.
    pub taken_by: &'a str,
}

row! {
    /// A kept file.
    pub struct FileRecord {
        /// Its number.
        pub id: i64,
        /// Whose.
        pub carrier_no: i32,
        /// Whose, by name.
        pub carrier: String,
        /// As it was called.
        pub name: String,
        /// SHA-256 of its bytes.
        pub digest: Vec<u8>,
        /// What its key is derived from.
        pub salt: Vec<u8>,
        /// Under which key-encryption key.
        pub kek_version: i16,
        /// [`FileState`] as a number.
        pub state: i16,
        /// What is wrong with it.
        pub flaw: Option<String>,
        /// The complete file of the same span that says something else.
        pub contradicts: Option<i64>,
        /// When it came, machine time, microseconds.
        pub received_at_us: i64,
        /// The first instant that it covers, machine time, microseconds.
        pub covers_from_us: Option<i64>,
        /// The first instant that it does not cover any more.
        pub covers_until_us: Option<i64>,
        /// Its bytes.
        pub bytes: i64,
        /// Rows that could be read.
        pub rows: i64,
        /// What they sum up to, such as `180 JPY`: minor units.
        pub sums: String,
        /// Up to which line it is matched.
        pub matched_line: i64,
        /// Rows that say what is recorded.
        pub agreed: i64,
        /// Rows that became evidence.
        pub given: i64,
        /// Rows that contradict what is recorded, or the attempt.
        pub conflicts: i64,
        /// Rows with our key and no attempt of ours.
        pub orphans: i64,
        /// Rows with somebody else's key.
        pub foreign_rows: i64,
        /// Who took it in.
        pub taken_by: String,
    }
}

/// One file's matching may not be done twice at a time: held until the connection ends.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn lock_files(conn: &mut PgConnection, carrier_no: i32) -> Result<bool, StoreError> {
    let locked = sqlx::query_scalar("SELECT pg_try_advisory_lock(7130013, $1)");
    Ok(locked.bind(carrier_no).fetch_one(conn).await?)
}

/// Keeps a file; `None` when the same bytes of this carrier are kept already. Its chunks follow in the same transaction.
///
/// # Errors
/// [`StoreError`] when the database is away or refuses.
pub async fn keep_file(conn: &mut PgConnection, new: &NewFile<'_>) -> Result<Option<i64>, StoreError> {
    let kept = sqlx::query_scalar(
        "INSERT INTO carrier_file (carrier_no, digest, salt, kek_version, name, bytes, taken_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (carrier_no, digest) DO NOTHING RETURNING id",
    );
    Ok(kept
        .bind(new.carrier_no)
        .bind(new.digest.as_slice())
        .bind(new.salt.as_slice())
        .bind(new.kek_version)
        .bind(new.name)
        .bind(new.bytes)
        .bind(new.taken_by)
        .fetch_optional(conn)
        .await?)
}

/// Keeps a piece of a file.
///
/// # Errors
/// [`StoreError`] when the database is away or refuses.
pub async fn keep_chunk(
    conn: &mut PgConnection,
    file_id: i64,
    no: i32,
    sealed: &[u8],
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO carrier_file_chunk (file_id, no, sealed) VALUES ($1, $2, $3)")
        .bind(file_id)
        .bind(no)
        .bind(sealed)
        .execute(conn)
        .await?;
    Ok(())
}

/// A piece of a file; `None` after the last.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn file_chunk(
    conn: &mut PgConnection,
    file_id: i64,
    no: i32,
) -> Result<Option<Vec<u8>>, StoreError> {
    let sealed = sqlx::query_scalar("SELECT sealed FROM carrier_file_chunk WHERE file_id = $1 AND no = $2");
    Ok(sealed.bind(file_id).bind(no).fetch_optional(conn).await?)
}

/// Files, the latest first, at most `limit`; of one carrier and digest, or of one number, where those are given.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn files(
    conn: &mut PgConnection,
    id: Option<i64>,
    same: Option<(i32, [u8; 32])>,
    limit: i64,
) -> Result<Vec<FileRecord>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT f.id, f.carrier_no, c.id AS carrier, f.name, f.digest, f.salt, f.kek_version, f.state, f.flaw, f.contradicts,
                us(f.received_at) AS received_at_us, us(f.covers_from) AS covers_from_us,
                us(f.covers_until) AS covers_until_us, f.bytes, f.rows, f.sums, f.matched_line, f.agreed, f.given,
                f.conflicts, f.orphans, f.foreign_rows, f.taken_by
           FROM carrier_file f JOIN carrier c ON c.carrier_no = f.carrier_no
          WHERE ($1::bigint IS NULL OR f.id = $1)
            AND ($2::int IS NULL OR f.carrier_no = $2 AND f.digest = $3)
          ORDER BY f.id DESC LIMIT $4",
    );
    let rows = rows.bind(id).bind(same.map(|same| same.0)).bind(same.map(|same| same.1.to_vec())).bind(limit);
    Ok(rows.fetch_all(conn).await?)
}

/// What was read in a file.
#[derive(Debug, Clone)]
pub struct FileRead<'a> {
    /// From and until, machine time, microseconds.
    pub covers_us: Option<(i64, i64)>,
    /// Rows that could be read.
    pub rows: i64,
    /// What they sum up to, in words, at most 1,000 characters.
    pub sums: &'a str,
    /// What is wrong with it, at most 500 characters.
    pub flaw: Option<&'a str>,
}

/// Says what was read in a file, before its rows are matched. Gives the flaw that stands, and the complete file of the same
/// span that it contradicts.
///
/// # Errors
/// [`StoreError`] when the database is away or refuses.
pub async fn read_file(
    conn: &mut PgConnection,
    file_id: i64,
    read: &FileRead<'_>,
) -> Result<(Option<String>, Option<i64>), StoreError> {
    let stands = sqlx::query_as("SELECT stands, against FROM read_file($1, $2, $3, $4, $5, $6)");
    Ok(stands
        .bind(file_id)
        .bind(read.covers_us.map(|covers| covers.0))
        .bind(read.covers_us.map(|covers| covers.1))
        .bind(read.rows)
        .bind(read.sums)
        .bind(read.flaw)
        .fetch_one(conn)
        .await?)
}

row! {
    /// An attempt that a key of ours names, with what a row is held against.
    pub struct KeyedAttempt {
        /// Of its key.
        pub ref_seed: i64,
        /// Of its key.
        pub period: i32,
        /// Of its key.
        pub attempt_no: i16,
        /// Whose charge.
        pub subscription_id: i64,
        /// What the carrier was asked to do.
        pub op: i16,
        /// Asked for, minor units.
        pub amount_minor: i64,
        /// ISO 4217 numeric.
        pub currency: i16,
        /// Machine time of the intent, microseconds.
        pub intent_at_us: i64,
        /// As in [`AttemptRow::state`](super::AttemptRow::state).
        pub state: i16,
        /// What moved, minor units.
        pub moved_minor: i64,
        /// The carrier's own id.
        pub carrier_txn_id: Option<String>,
        /// Whose line.
        pub subscriber_id: i64,
        /// The number, sealed.
        pub msisdn_ct: Vec<u8>,
        /// What the subscriber's key is derived from.
        pub key_salt: Vec<u8>,
        /// Under which key-encryption key.
        pub kek_version: i16,
    }
}

/// The attempts that keys of ours name (seed, period, attempt number); those that there are.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn attempts_of_keys(
    conn: &mut PgConnection,
    keys: &[(i64, i32, i16)],
) -> Result<Vec<KeyedAttempt>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT k.seed AS ref_seed, i.period, i.attempt_no, i.subscription_id, i.op, i.amount_minor, i.currency,
                us(i.intent_at) AS intent_at_us, coalesce(o.class, n.kind + 1, 1)::int2 AS state,
                coalesce(o.moved_minor, 0) AS moved_minor, coalesce(o.carrier_txn_id, n.carrier_txn_id) AS carrier_txn_id,
                s.subscriber_id, b.msisdn_ct, b.key_salt, b.kek_version
           FROM unnest($1::bigint[], $2::int[], $3::int2[]) AS k (seed, period, attempt_no)
           JOIN subscription_ref r ON r.ref_seed = k.seed
           JOIN attempt_intent i
             ON i.subscription_id = r.subscription_id AND i.period = k.period AND i.attempt_no = k.attempt_no
           JOIN subscription s ON s.id = i.subscription_id
           JOIN subscriber b ON b.id = s.subscriber_id
           LEFT JOIN attempt_outcome o
             ON o.subscription_id = i.subscription_id AND o.period = i.period AND o.attempt_no = i.attempt_no
           LEFT JOIN attempt_open n
             ON n.subscription_id = i.subscription_id AND n.period = i.period AND n.attempt_no = i.attempt_no",
    );
    let rows = rows
        .bind(keys.iter().map(|key| key.0).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.1).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.2).collect::<Vec<_>>());
    Ok(rows.fetch_all(conn).await?)
}

/// A row that does not merely say what is recorded.
#[derive(Debug, Clone)]
pub struct SettledFileRow<'a> {
    /// Its line.
    pub line: i64,
    /// Of the attempt, where there is one.
    pub subscription_id: Option<i64>,
    /// Seed, period and attempt number of our key, where it is one.
    pub key: Option<(i64, i32, i16)>,
    /// What it says moved, minor units.
    pub moved_minor: i64,
    /// What it says, as a number.
    pub reason: i16,
    /// What became of it.
    pub state: FileRowState,
    /// The key as it stands there.
    pub our_ref: &'a str,
    /// The carrier's id.
    pub carrier_txn_id: Option<&'a str>,
    /// The status as it stands there.
    pub code: &'a str,
    /// The line, sealed.
    pub sealed: &'a [u8],
    /// For people: the kind of the case, and what they must look at. Needs the attempt.
    pub case: Option<(&'a str, String)>,
}

/// Keeps a row; `None` when that line is kept already.
///
/// # Errors
/// [`StoreError`] when the database is away or refuses.
pub async fn settle_file_row(
    conn: &mut PgConnection,
    file_id: i64,
    row: &SettledFileRow<'_>,
) -> Result<Option<i64>, StoreError> {
    let settled = sqlx::query_scalar(
        "SELECT settle_file_row($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    );
    Ok(settled
        .bind(file_id)
        .bind(row.line)
        .bind(row.subscription_id)
        .bind(row.key.map(|key| key.0))
        .bind(row.key.map(|key| key.1))
        .bind(row.key.map(|key| key.2))
        .bind(row.moved_minor)
        .bind(row.reason)
        .bind(row.state as i16)
        .bind(row.our_ref)
        .bind(row.carrier_txn_id)
        .bind(row.code)
        .bind(row.sealed)
        .bind(row.case.as_ref().map(|case| case.0))
        .bind(row.case.as_ref().map(|case| case.1.as_str()))
        .fetch_one(conn)
        .await?)
}

/// Rows of a batch, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileCounts {
    /// They say what is recorded.
    pub agreed: i64,
    /// They became evidence.
    pub given: i64,
    /// They contradict what is recorded, or the attempt.
    pub conflicts: i64,
    /// Our key, no attempt of ours.
    pub orphans: i64,
    /// Somebody else's key.
    pub foreign: i64,
}

/// Notes up to which line a file is matched, in the commit that matches; `end`: that was all of it.
///
/// # Errors
/// [`StoreError`] when the database is away or refuses.
pub async fn note_matched(
    conn: &mut PgConnection,
    file_id: i64,
    line: i64,
    counts: FileCounts,
    end: bool,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE carrier_file
            SET matched_line = greatest(matched_line, $2), agreed = agreed + $3, given = given + $4,
                conflicts = conflicts + $5, orphans = orphans + $6, foreign_rows = foreign_rows + $7,
                state = CASE WHEN NOT $8 THEN state WHEN flaw IS NOT NULL THEN 3
                             WHEN contradicts IS NOT NULL THEN 4 ELSE 2 END
          WHERE id = $1 AND state = 1",
    )
    .bind(file_id)
    .bind(line)
    .bind(counts.agreed)
    .bind(counts.given)
    .bind(counts.conflicts)
    .bind(counts.orphans)
    .bind(counts.foreign)
    .bind(end)
    .execute(conn)
    .await?;
    Ok(())
}

row! {
    /// A row of a file, with what opens it.
    pub struct FileRowRecord {
        /// Its number.
        pub id: i64,
        /// Its file.
        pub file_id: i64,
        /// Its line.
        pub line: i64,
        /// [`FileRowState`] as a number.
        pub state: i16,
        /// What it says, as a number.
        pub reason: i16,
        /// What it says moved, minor units.
        pub moved_minor: i64,
        /// The key as it stands there.
        pub our_ref: String,
        /// The attempt that it is about, where there is one.
        pub subscription_id: Option<i64>,
        /// Of our key.
        pub period: Option<i32>,
        /// Of our key.
        pub attempt_no: Option<i16>,
        /// The carrier's id.
        pub carrier_txn_id: Option<String>,
        /// The status as it stands there.
        pub code: String,
        /// The line, sealed.
        pub sealed: Vec<u8>,
        /// Its file's name.
        pub name: String,
        /// When its file came, machine time, microseconds.
        pub received_at_us: i64,
        /// Its file's carrier.
        pub carrier_no: i32,
        /// Its file's digest.
        pub digest: Vec<u8>,
        /// What its file's key is derived from.
        pub salt: Vec<u8>,
        /// Under which key-encryption key.
        pub kek_version: i16,
    }
}

/// Kept rows of a file, by line, at most `limit`; or the one of a number.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn file_rows(
    conn: &mut PgConnection,
    file_id: Option<i64>,
    row_id: Option<i64>,
    limit: i64,
) -> Result<Vec<FileRowRecord>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT r.id, r.file_id, r.line, r.state, r.reason, r.moved_minor, r.our_ref, r.subscription_id, r.period,
                r.attempt_no, r.carrier_txn_id, r.code, r.sealed, f.name, us(f.received_at) AS received_at_us, f.carrier_no,
                f.digest, f.salt, f.kek_version
           FROM carrier_file_row r JOIN carrier_file f ON f.id = r.file_id
          WHERE ($1::bigint IS NULL OR r.file_id = $1) AND ($2::bigint IS NULL OR r.id = $2)
          ORDER BY r.file_id, r.line LIMIT $3",
    );
    Ok(rows.bind(file_id).bind(row_id).bind(limit).fetch_all(conn).await?)
}

/// What the complete files of these carriers cover: carrier, from and until, machine time in microseconds. Nothing of a
/// carrier one of whose files is not matched to its end: that one may name what the others do not. And not of a file with
/// rows of which none has a key of our form: it may write our keys in another way.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn file_coverage(
    conn: &mut PgConnection,
    carriers: &[i32],
) -> Result<Vec<(i32, i64, i64)>, StoreError> {
    let covered = sqlx::query_as(
        "SELECT f.carrier_no, us(f.covers_from), us(f.covers_until) FROM carrier_file f
          WHERE f.carrier_no = ANY ($1) AND f.state = 2 AND f.covers_until > now() - interval '100 days'
            AND (f.foreign_rows = 0 OR f.foreign_rows < f.rows)
            AND NOT EXISTS (SELECT FROM carrier_file x WHERE x.carrier_no = f.carrier_no AND x.state IN (0, 1))
          ORDER BY f.carrier_no, f.covers_from",
    );
    Ok(covered.bind(carriers).fetch_all(conn).await?)
}

/// Which of these attempts a file or a message of a carrier names, whatever it says and however much it counts.
///
/// # Errors
/// [`StoreError`] when the database is away.
pub async fn named_elsewhere(
    conn: &mut PgConnection,
    keys: &[AttemptKey],
) -> Result<Vec<AttemptKey>, StoreError> {
    let rows: Vec<(i64, i32, i16)> = sqlx::query_as(
        "SELECT k.id, k.period, k.attempt_no
           FROM unnest($1::bigint[], $2::int[], $3::int2[]) AS k (id, period, attempt_no)
           JOIN subscription s ON s.id = k.id
          WHERE EXISTS (SELECT FROM carrier_file_row r
                         WHERE r.ref_seed = s.ref_seed AND r.period = k.period AND r.attempt_no = k.attempt_no)
             OR EXISTS (SELECT FROM callback_inbox b
                         WHERE b.subscription_id = k.id AND b.period = k.period AND b.attempt_no = k.attempt_no
                           AND b.state IN (1, 4, 5))",
    )
    .bind(keys.iter().map(|key| key.subscription_id).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.period).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.attempt_no).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(subscription_id, period, attempt_no)| AttemptKey { subscription_id, period, attempt_no })
        .collect())
}
