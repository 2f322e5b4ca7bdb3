-- The book's versions as people apply them, the version that a charge was decided under, and what closes the ledger:
-- sealed days and months, each chained to the one before by its digest.

-- ------------------------------------------------------------------ the book
-- A revert applies an earlier digest again; numbers are given under the lock of apply_book, so that none is missing.
ALTER TABLE book_version DROP CONSTRAINT book_version_digest_key;
ALTER TABLE book_version ALTER version DROP IDENTITY,
    ADD applied_by text NOT NULL DEFAULT '' CHECK (length(applied_by) <= 128),
    ADD note       text NOT NULL DEFAULT '' CHECK (length(note) <= 500);
COMMENT ON TABLE book_version IS 'every version of the book that was ever in force, with its files; never changed';
COMMENT ON COLUMN subscription.book_version IS 'under which the charge of the current period is decided, once it has an attempt';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON book_version FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Their signatures changed.
DROP FUNCTION IF EXISTS begin_attempts;
DROP FUNCTION IF EXISTS record_outcomes;
DROP FUNCTION IF EXISTS open_intents;

-- ------------------------------------------------------------------ the ledger
CREATE INDEX transfer_date ON transfer USING brin (business_date) WITH (pages_per_range = 32, autosummarize = on);
CREATE TABLE ledger_open (
    only_row    bool PRIMARY KEY DEFAULT true CHECK (only_row),
    closed_date int NOT NULL
);
COMMENT ON TABLE ledger_open IS 'the last business date (days since 2000-01-01) that takes no postings any more; they fall on the next';
INSERT INTO ledger_open (closed_date) VALUES (-2147483648);
CREATE TABLE account_day (
    debit         bigint NOT NULL CHECK (debit >= 0),
    credit        bigint NOT NULL CHECK (credit >= 0),
    business_date int NOT NULL,
    account_id    int NOT NULL,
    PRIMARY KEY (business_date, account_id)
);
COMMENT ON TABLE account_day IS 'what a sealed day posted to each account';
CREATE TABLE day_seal (
    business_date int PRIMARY KEY,
    sealed_at     timestamptz NOT NULL DEFAULT now(),
    transfers     bigint NOT NULL,
    digest        bytea NOT NULL CHECK (length(digest) = 32)
);
COMMENT ON TABLE day_seal IS 'digest = sha256(digest of the day before, the date, the totals of account_day)';
CREATE TABLE month_seal (
    month     int PRIMARY KEY CHECK (month % 100 BETWEEN 1 AND 12),
    sealed_at timestamptz NOT NULL DEFAULT now(),
    digest    bytea NOT NULL CHECK (length(digest) = 32)
);
COMMENT ON TABLE month_seal IS 'digest = sha256(digest of the month before, the month, the digests of its days)';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON account_day FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON day_seal FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON month_seal FOR EACH ROW EXECUTE FUNCTION refuse_change();
