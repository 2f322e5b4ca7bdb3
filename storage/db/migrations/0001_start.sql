-- The tables of the first slice. Wide columns first (int8), then int4, int2, text. Business instants are
-- milliseconds since 1970 (int8, `_ms`), machine instants are timestamptz. Numbers of states, outcomes, rules:
-- billing-core. A migration is never edited once released; functions live in ../procedures.

-- ------------------------------------------------------------------ names and numbers
CREATE TABLE carrier (
    carrier_no int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         text NOT NULL UNIQUE,
    currency   int2 NOT NULL,
    slices     int  NOT NULL CHECK (slices BETWEEN 1 AND 4096 AND slices & (slices - 1) = 0)
);
CREATE TABLE merchant (
    merchant_no int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          text NOT NULL UNIQUE
);
CREATE TABLE plan (
    plan_no     int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          text NOT NULL UNIQUE,
    merchant_no int  NOT NULL REFERENCES merchant,
    carrier_no  int  NOT NULL REFERENCES carrier
);
CREATE TABLE zone (
    zone_no int2 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name    text NOT NULL UNIQUE
);
CREATE TABLE book_version (
    version    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest     bytea NOT NULL UNIQUE,
    applied_at timestamptz NOT NULL DEFAULT now(),
    files      jsonb NOT NULL
);

CREATE TABLE key_check (
    kek_version int2 PRIMARY KEY,
    sealed      bytea NOT NULL,
    pepper      bytea NOT NULL
);
COMMENT ON TABLE key_check IS 'proves that a process has the keys under which this database was written';

-- ------------------------------------------------------------------ workers, shards, fences
CREATE TABLE worker (
    slot        int PRIMARY KEY,
    incarnation bigint NOT NULL,
    epoch       int NOT NULL
);
COMMENT ON TABLE worker IS 'the fence: locked FOR SHARE once per batch';
CREATE TABLE worker_lease (
    slot        int PRIMARY KEY,
    incarnation bigint NOT NULL,
    epoch       int NOT NULL,
    renewals    bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE worker_lease IS 'apart from worker, so that a renewal never queues behind a batch';
CREATE TABLE worker_incarnation (
    incarnation bigint PRIMARY KEY,
    slot        int NOT NULL,
    epoch       int NOT NULL,
    host        text NOT NULL,
    boot_id     text NOT NULL,
    spool       text NOT NULL,
    endpoint    text NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    fenced_at   timestamptz,
    UNIQUE (slot, epoch)
);
CREATE TABLE shard_owner (
    shard int PRIMARY KEY,
    slot  int
);
CREATE TABLE shard_progress (
    shard     int PRIMARY KEY,
    low_water timestamptz NOT NULL
);
COMMENT ON TABLE shard_progress IS 'every intent before low_water has its outcome or its attempt_open row';
CREATE TABLE shard_counter (
    shard             int PRIMARY KEY,
    next_subscriber   bigint NOT NULL DEFAULT 1,
    next_subscription bigint NOT NULL DEFAULT 1
);
CREATE TABLE shard_inbox (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    subscription_id bigint NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    shard           int  NOT NULL,
    kind            int2 NOT NULL,
    payload         bytea NOT NULL,
    PRIMARY KEY (shard, id)
);
COMMENT ON TABLE shard_inbox IS 'what everybody but the owner wants of a shard; the owner deletes in the commit that applies';

-- ------------------------------------------------------------------ subscribers and subscriptions
CREATE TABLE subscriber (
    id             bigint PRIMARY KEY,
    stop_at_ms     bigint,
    zone_no        int2 NOT NULL,
    kek_version    int2 NOT NULL,
    pepper_version int2 NOT NULL,
    msisdn_hmac    bytea NOT NULL CHECK (length(msisdn_hmac) = 32),
    key_salt       bytea NOT NULL CHECK (length(key_salt) = 16),
    msisdn_ct      bytea NOT NULL CHECK (length(msisdn_ct) BETWEEN 29 AND 64)
);
COMMENT ON TABLE subscriber IS 'one line at one carrier; the MSISDN exists only as ciphertext and keyed hash';
CREATE TABLE msisdn_directory (
    subscriber_id bigint NOT NULL,
    valid_from    timestamptz NOT NULL DEFAULT now(),
    valid_to      timestamptz,
    carrier_no    int NOT NULL,
    msisdn_hmac   bytea NOT NULL,
    PRIMARY KEY (msisdn_hmac, carrier_no, valid_from)
);
CREATE TABLE subscription (
    id              bigint PRIMARY KEY,
    subscriber_id   bigint NOT NULL,
    ref_seed        bigint NOT NULL,
    due_minor       bigint NOT NULL CHECK (due_minor > 0),
    collected_minor bigint NOT NULL DEFAULT 0,
    next_at_ms      bigint,
    retry_at_ms     bigint,
    paid_until_ms   bigint,
    state_until_ms  bigint,
    stop_at_ms      bigint,
    plan_no         int  NOT NULL,
    merchant_no     int  NOT NULL,
    book_version    int  NOT NULL,
    anchor_day      int  NOT NULL,
    period          int  NOT NULL,
    rev             int  NOT NULL DEFAULT 0,
    flags           int  NOT NULL DEFAULT 0,
    zone_no         int2 NOT NULL,
    anchor_minute   int2 NOT NULL CHECK (anchor_minute BETWEEN 0 AND 1439),
    currency        int2 NOT NULL,
    state           int2 NOT NULL CHECK (state BETWEEN 1 AND 10),
    attempt_no      int2 NOT NULL DEFAULT 0 CHECK (attempt_no BETWEEN 0 AND 1023),
    round           int2 NOT NULL DEFAULT 0,
    step            int2 NOT NULL DEFAULT 0,
    open            int2 NOT NULL DEFAULT 0 CHECK (open BETWEEN 0 AND 3),
    deferrals       int2 NOT NULL DEFAULT 0,
    next_kind       int2 NOT NULL,
    CHECK (collected_minor BETWEEN 0 AND due_minor)
) WITH (fillfactor = 50);
COMMENT ON TABLE subscription IS 'the only row updated per charge, and HOT: no index on anything that a charge changes';
CREATE INDEX subscription_subscriber ON subscription (subscriber_id);
CREATE TABLE subscription_ref (
    ref_seed        bigint PRIMARY KEY,
    subscription_id bigint NOT NULL,
    merchant_no     int NOT NULL,
    digest          bytea NOT NULL CHECK (length(digest) = 32)
);
COMMENT ON TABLE subscription_ref IS 'the merchant''s own reference; apart from subscription, whose row is rewritten per charge';

-- ------------------------------------------------------------------ attempts: append only
CREATE TABLE attempt_intent (
    subscription_id bigint NOT NULL,
    amount_minor    bigint NOT NULL CHECK (amount_minor > 0),
    digest_hi       bigint NOT NULL,
    digest_lo       bigint NOT NULL,
    not_before_ms   bigint NOT NULL,
    not_after_ms    bigint NOT NULL,
    incarnation     bigint NOT NULL,
    intent_at       timestamptz NOT NULL,
    business_at_ms  bigint NOT NULL,
    period          int  NOT NULL,
    book_version    int  NOT NULL,
    attempt_no      int2 NOT NULL CHECK (attempt_no BETWEEN 1 AND 1023),
    op              int2 NOT NULL,
    round           int2 NOT NULL,
    step            int2 NOT NULL,
    currency        int2 NOT NULL,
    rule_id         int2 NOT NULL,
    PRIMARY KEY (subscription_id, period, attempt_no)
) PARTITION BY RANGE (period);
CREATE INDEX attempt_intent_at ON attempt_intent USING brin (intent_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE TABLE attempt_outcome (
    subscription_id bigint NOT NULL,
    moved_minor     bigint NOT NULL CHECK (moved_minor >= 0),
    collected_after bigint NOT NULL,
    incarnation     bigint NOT NULL,
    decided_at      timestamptz NOT NULL,
    business_at_ms  bigint NOT NULL,
    period          int  NOT NULL,
    latency_us      int  NOT NULL,
    attempt_no      int2 NOT NULL,
    class           int2 NOT NULL CHECK (class BETWEEN 5 AND 10),
    reason          int2 NOT NULL,
    charge_state    int2 NOT NULL,
    rule_id         int2 NOT NULL,
    carrier_code    text CHECK (length(carrier_code) <= 64),
    carrier_txn_id  text CHECK (length(carrier_txn_id) <= 64),
    PRIMARY KEY (subscription_id, period, attempt_no),
    CHECK ((class = 5) = (moved_minor > 0))
) PARTITION BY RANGE (period);
CREATE TABLE attempt_open (
    subscription_id bigint NOT NULL,
    amount_minor    bigint NOT NULL,
    deadline_at_ms  bigint,
    since           timestamptz NOT NULL DEFAULT now(),
    period          int  NOT NULL,
    attempt_no      int2 NOT NULL,
    kind            int2 NOT NULL CHECK (kind BETWEEN 1 AND 3),
    reason          int2 NOT NULL,
    rule_id         int2 NOT NULL,
    currency        int2 NOT NULL,
    carrier_code    text,
    carrier_txn_id  text,
    assignee        text,
    PRIMARY KEY (subscription_id, period, attempt_no)
);
COMMENT ON TABLE attempt_open IS 'attempts that are accepted (1), unknown (2) or in review (3): small, and every row is somebody''s money';
CREATE TABLE charge_aside (
    subscription_id bigint NOT NULL,
    due_minor       bigint NOT NULL,
    collected_minor bigint NOT NULL,
    refunded_minor  bigint NOT NULL DEFAULT 0,
    reversed_minor  bigint NOT NULL DEFAULT 0,
    next_at_ms      bigint,
    expires_at_ms   bigint,
    period          int  NOT NULL,
    rev             int  NOT NULL DEFAULT 0,
    attempt_no      int2 NOT NULL,
    round           int2 NOT NULL,
    step            int2 NOT NULL,
    open            int2 NOT NULL,
    state           int2 NOT NULL,
    next_kind       int2 NOT NULL DEFAULT 0,
    currency        int2 NOT NULL,
    PRIMARY KEY (subscription_id, period)
);
CREATE TABLE charge_note (
    subscription_id bigint NOT NULL,
    until_ms        bigint,
    at              timestamptz NOT NULL DEFAULT now(),
    business_at_ms  bigint NOT NULL,
    period          int  NOT NULL,
    rev             int  NOT NULL,
    kind            int2 NOT NULL,
    charge_state    int2 NOT NULL,
    rule_id         int2 NOT NULL,
    PRIMARY KEY (subscription_id, period, rev)
) PARTITION BY RANGE (period);
COMMENT ON TABLE charge_note IS 'what happened to a charge without an attempt; rev is the subscription''s before the change';

-- ------------------------------------------------------------------ money
CREATE TABLE account (
    id         int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner_id   int  NOT NULL,
    owner_kind int2 NOT NULL,
    purpose    int2 NOT NULL,
    asset      int2 NOT NULL,
    UNIQUE (owner_kind, owner_id, purpose, asset)
);
CREATE TABLE account_balance (
    posted     bigint NOT NULL DEFAULT 0,
    account_id int  NOT NULL,
    stripe     int2 NOT NULL,
    PRIMARY KEY (account_id, stripe)
) WITH (fillfactor = 20);
COMMENT ON TABLE account_balance IS 'striped by database connection, so that no two commits contend; debits minus credits';
CREATE TABLE transfer (
    source_id      bigint NOT NULL,
    amount         bigint NOT NULL CHECK (amount > 0),
    period         int  NOT NULL,
    debit_account  int  NOT NULL,
    credit_account int  NOT NULL,
    business_date  int  NOT NULL,
    attempt_no     int2 NOT NULL,
    leg            int2 NOT NULL,
    asset          int2 NOT NULL,
    PRIMARY KEY (source_id, period, attempt_no, leg),
    CHECK (debit_account <> credit_account)
) PARTITION BY RANGE (period);
COMMENT ON TABLE transfer IS 'leg is the kind: an attempt posts each kind at most once';

-- ------------------------------------------------------------------ what follows
CREATE TABLE entitlement_grant (
    subscription_id bigint NOT NULL,
    from_ms         bigint NOT NULL,
    until_ms        bigint,
    period          int  NOT NULL,
    attempt_no      int2 NOT NULL,
    PRIMARY KEY (subscription_id, period, attempt_no)
) PARTITION BY RANGE (period);
CREATE TABLE outbox (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    business_at_ms   bigint NOT NULL,
    merchant_no      int NOT NULL,
    subscription_ids bigint[] NOT NULL,
    amounts          bigint[] NOT NULL,
    periods          int[] NOT NULL,
    revs             int[] NOT NULL,
    events           int2[] NOT NULL
);
COMMENT ON TABLE outbox IS 'one row per merchant and batch; readers claim with SKIP LOCKED and delete, never id > last';
-- Compressing these arrays would cost the hot path more than the bytes are worth.
ALTER TABLE outbox ALTER subscription_ids SET STORAGE EXTERNAL, ALTER amounts SET STORAGE EXTERNAL,
    ALTER periods SET STORAGE EXTERNAL, ALTER revs SET STORAGE EXTERNAL, ALTER events SET STORAGE EXTERNAL;
CREATE TABLE charge_minute (
    minute_ms    bigint NOT NULL,
    count        bigint NOT NULL,
    amount_minor bigint NOT NULL,
    incarnation  bigint NOT NULL,
    carrier_no   int  NOT NULL,
    plan_no      int  NOT NULL,
    zone_no      int2 NOT NULL,
    class        int2 NOT NULL,
    reason       int2 NOT NULL,
    charge_state int2 NOT NULL
);
CREATE INDEX charge_minute_at ON charge_minute USING brin (minute_ms);
COMMENT ON TABLE charge_minute IS 'summed in memory, appended every few seconds: for status and charts, never for money';
CREATE TABLE case_file (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id bigint NOT NULL,
    opened_at       timestamptz NOT NULL DEFAULT now(),
    period          int,
    attempt_no      int2,
    kind            text NOT NULL,
    what            text NOT NULL
);
CREATE TABLE business_clock (
    only_row         bool PRIMARY KEY DEFAULT true CHECK (only_row),
    base_machine_ms  bigint NOT NULL,
    base_business_ms bigint NOT NULL,
    scale            int NOT NULL CHECK (scale BETWEEN 0 AND 1000000)
);
COMMENT ON TABLE business_clock IS 'business now = base_business + (machine now - base_machine) * scale; one clock, read by all processes';
INSERT INTO business_clock (base_machine_ms, base_business_ms, scale) VALUES (0, 0, 1);

-- ------------------------------------------------------------------ partitions and guards
CREATE TABLE period_partition (
    low_period  int PRIMARY KEY,
    high_period int NOT NULL
);
COMMENT ON TABLE period_partition IS 'which partitions exist; periods outside of them get the verdict no_partition';

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'TB003';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON attempt_intent FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON attempt_outcome FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON transfer FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON charge_note FOR EACH ROW EXECUTE FUNCTION refuse_change();
