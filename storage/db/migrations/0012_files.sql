-- Reconciliation files of carriers: kept raw and sealed before anything is read in them, then matched row by row.

CREATE TABLE carrier_file (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at  timestamptz NOT NULL DEFAULT now(),
    covers_from  timestamptz,
    covers_until timestamptz,
    bytes        bigint NOT NULL DEFAULT 0,
    rows         bigint NOT NULL DEFAULT 0,
    matched_line bigint NOT NULL DEFAULT 0,
    contradicts  bigint REFERENCES carrier_file,
    agreed       bigint NOT NULL DEFAULT 0,
    given        bigint NOT NULL DEFAULT 0,
    conflicts    bigint NOT NULL DEFAULT 0,
    orphans      bigint NOT NULL DEFAULT 0,
    foreign_rows bigint NOT NULL DEFAULT 0,
    carrier_no   int  NOT NULL REFERENCES carrier,
    kek_version  int2 NOT NULL,
    state        int2 NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 4),
    digest       bytea NOT NULL CHECK (length(digest) = 32),
    salt         bytea NOT NULL CHECK (length(salt) = 16),
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    sums         text NOT NULL DEFAULT '' CHECK (length(sums) <= 1000),
    flaw         text CHECK (length(flaw) BETWEEN 1 AND 500),
    taken_by     text NOT NULL CHECK (length(taken_by) BETWEEN 1 AND 64),
    UNIQUE (carrier_no, digest),
    CHECK (covers_from < covers_until),
    CHECK (state NOT IN (2, 4) OR covers_from IS NOT NULL)
);
COMMENT ON TABLE carrier_file IS 'a carrier''s reconciliation file; its digest is its identity';
COMMENT ON COLUMN carrier_file.state IS '0 kept, 1 being matched, up to matched_line, 2 complete and matched: its absences count, 3 incomplete: flaw says why, 4 contradicts another complete file of the same span';
CREATE INDEX carrier_file_covers ON carrier_file (carrier_no, covers_from);

CREATE TABLE carrier_file_chunk (
    file_id bigint NOT NULL REFERENCES carrier_file,
    no      int    NOT NULL,
    sealed  bytea  NOT NULL CHECK (length(sealed) <= 1048576),
    PRIMARY KEY (file_id, no)
);
COMMENT ON TABLE carrier_file_chunk IS 'the raw file, piece by piece under a key of its own: it names subscribers';

CREATE TABLE carrier_file_row (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_id         bigint NOT NULL REFERENCES carrier_file,
    line            bigint NOT NULL,
    subscription_id bigint,
    moved_minor     bigint NOT NULL,
    ref_seed        bigint,
    period          int,
    attempt_no      int2,
    reason          int2 NOT NULL,
    state           int2 NOT NULL CHECK (state BETWEEN 1 AND 6),
    our_ref         text NOT NULL CHECK (length(our_ref) <= 64),
    carrier_txn_id  text CHECK (length(carrier_txn_id) <= 64),
    code            text NOT NULL CHECK (length(code) <= 64),
    sealed          bytea NOT NULL CHECK (length(sealed) <= 8192),
    UNIQUE (file_id, line)
);
COMMENT ON TABLE carrier_file_row IS 'rows that do not merely say what is recorded already; ref_seed, period, attempt_no: of our key, whether we know the attempt or not';
COMMENT ON COLUMN carrier_file_row.state IS '1 given to the owner as evidence, 2 contradicts the attempt or what is recorded: a case, 3 orphan: our key, no attempt of ours, 4 somebody else''s key, 5 says nothing that counts, 6 of a file that proves nothing';
CREATE INDEX carrier_file_row_attempt ON carrier_file_row (ref_seed, period, attempt_no) WHERE ref_seed IS NOT NULL;
CREATE INDEX callback_inbox_attempt ON callback_inbox (subscription_id, period, attempt_no) WHERE subscription_id IS NOT NULL;

-- Its result has one more column.
DROP FUNCTION IF EXISTS due_asks;
