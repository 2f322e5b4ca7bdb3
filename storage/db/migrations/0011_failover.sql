-- A failover that lost commits is noticed, and what was sent in the meantime is asked about before anything is sent again.

CREATE TABLE database_guard (
    only_row          bool PRIMARY KEY DEFAULT true CHECK (only_row),
    system_identifier bigint NOT NULL,
    counter           bigint NOT NULL,
    touched_at        timestamptz NOT NULL,
    timeline          int NOT NULL
);
COMMENT ON TABLE database_guard IS 'which server this database lived on when a worker last wrote here: a promoted standby is on another timeline than its own row says';
INSERT INTO database_guard (system_identifier, counter, touched_at, timeline)
SELECT system_identifier, 0, now(), ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
  FROM pg_control_system();

CREATE TABLE quarantine (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    found_at      timestamptz NOT NULL DEFAULT now(),
    window_from   timestamptz NOT NULL,
    deadline_at   timestamptz NOT NULL,
    forced_at     timestamptz,
    seen_counter  bigint NOT NULL,
    seen_lsn      bigint NOT NULL,
    from_system   bigint NOT NULL,
    from_timeline int NOT NULL,
    to_timeline   int NOT NULL,
    why           text NOT NULL,
    forced_by     text
);
COMMENT ON TABLE quarantine IS 'one per failover: what was begun since window_from may have been lost';
COMMENT ON COLUMN quarantine.deadline_at IS 'spools that were not handed in by then are not waited for: every charge that was due is asked about';
COMMENT ON COLUMN quarantine.from_system IS 'the cluster that the database was kept on before: another one only where somebody said that it was moved';
COMMENT ON COLUMN quarantine.forced_at IS 'somebody said not to wait';
CREATE TABLE quarantine_spool (
    quarantine_id bigint NOT NULL REFERENCES quarantine,
    handed_in_at  timestamptz,
    lines         bigint NOT NULL DEFAULT 0,
    lost          bigint NOT NULL DEFAULT 0,
    host          text NOT NULL,
    spool         text NOT NULL,
    boot_id       text NOT NULL,
    PRIMARY KEY (quarantine_id, host, spool, boot_id)
);
COMMENT ON TABLE quarantine_spool IS 'spools of the incarnations that lived in the window, and whose lines were handed in; lines: sent in the window, lost: of those without an intent here';
CREATE TABLE shard_quarantine (
    quarantine_id  bigint NOT NULL REFERENCES quarantine,
    resumed_at     timestamptz,
    doubt_until_ms bigint,
    inbox_until    bigint,
    listed         bigint NOT NULL DEFAULT 0,
    shard          int NOT NULL,
    how            text CHECK (how IN ('listed', 'all')),
    PRIMARY KEY (quarantine_id, shard),
    CHECK ((resumed_at IS NULL) = (how IS NULL))
);
COMMENT ON COLUMN shard_quarantine.how IS 'listed: every spool was handed in, so that only what they list is asked about; all: every charge that was due by doubt_until_ms (business time) is';
COMMENT ON COLUMN shard_quarantine.inbox_until IS 'refunds asked for by inbox rows up to this one may have been sent too';
CREATE INDEX shard_quarantine_shard ON shard_quarantine (shard);
CREATE TABLE lost_attempt (
    subscription_id bigint NOT NULL,
    amount_minor    bigint NOT NULL CHECK (amount_minor > 0),
    digest_hi       bigint NOT NULL,
    digest_lo       bigint NOT NULL,
    not_before_ms   bigint NOT NULL,
    not_after_ms    bigint NOT NULL,
    business_at_ms  bigint NOT NULL,
    incarnation     bigint NOT NULL,
    intent_at       timestamptz NOT NULL,
    listed_at       timestamptz NOT NULL DEFAULT now(),
    period          int NOT NULL,
    book_version    int NOT NULL,
    attempt_no      int2 NOT NULL,
    op              int2 NOT NULL,
    round           int2 NOT NULL,
    step            int2 NOT NULL,
    currency        int2 NOT NULL,
    rule_id         int2 NOT NULL,
    parent_no       int2 NOT NULL,
    state           int2 NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 3),
    chain           bool NOT NULL DEFAULT false,
    PRIMARY KEY (subscription_id, period, attempt_no)
);
COMMENT ON TABLE lost_attempt IS 'attempts that may have been sent and whose intents a failover lost; nothing of their charges is begun meanwhile';
COMMENT ON COLUMN lost_attempt.state IS '0 waits for the attempt before it, 1 its intent is here again, 2 the carrier knew it, so the next one is asked about too, 3 its subscription is lost: a case';
COMMENT ON COLUMN lost_attempt.chain IS 'not listed by a spool: assumed, because a spool is missing';

ALTER TABLE shard_owner ADD held int2 NOT NULL DEFAULT 0 CHECK (held BETWEEN 0 AND 2);
COMMENT ON COLUMN shard_owner.held IS '1 quarantined: nothing is begun; 2 some of its charges are in lost_attempt: those are not begun';

DROP FUNCTION IF EXISTS begin_verdicts;
