-- What the migrations make, as pg_dump tells it. Kept fresh by tests/tests/schema.rs; read it, do not edit it.
CREATE TABLE public.decision_proposal (
    id bigint NOT NULL,
    subscription_id bigint NOT NULL,
    moved_minor bigint NOT NULL,
    open_since timestamp with time zone NOT NULL,
    proposed_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    period integer NOT NULL,
    attempt_no smallint NOT NULL,
    open_kind smallint NOT NULL,
    reason smallint NOT NULL,
    currency smallint NOT NULL,
    state smallint DEFAULT 0 NOT NULL,
    proposed_by text NOT NULL,
    proposed_account text NOT NULL,
    approved_by text,
    approved_account text,
    why text NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT decision_proposal_check CHECK ((lower(approved_by) <> lower(proposed_by))),
    CONSTRAINT decision_proposal_check1 CHECK (((state = 1) = (approved_by IS NOT NULL))),
    CONSTRAINT decision_proposal_digest_check CHECK ((length(digest) = 32)),
    CONSTRAINT decision_proposal_moved_minor_check CHECK ((moved_minor >= 0)),
    CONSTRAINT decision_proposal_state_check CHECK (((state >= 0) AND (state <= 2))),
    CONSTRAINT decision_proposal_why_check CHECK (((length(why) >= 1) AND (length(why) <= 500)))
);

COMMENT ON TABLE public.decision_proposal IS 'what became of an attempt that nobody but people can settle: proposed (0), approved by somebody else (1), expired (2)';

COMMENT ON COLUMN public.decision_proposal.digest IS 'of everything that is approved, and of the attempt as it stood: a change in between is refused';

CREATE TABLE public.account (
    id integer NOT NULL,
    owner_id integer NOT NULL,
    owner_kind smallint NOT NULL,
    purpose smallint NOT NULL,
    asset smallint NOT NULL
);

CREATE TABLE public.account_balance (
    posted bigint DEFAULT 0 NOT NULL,
    account_id integer NOT NULL,
    stripe smallint NOT NULL
)
WITH (fillfactor='20');

COMMENT ON TABLE public.account_balance IS 'striped by database connection, so that no two commits contend; debits minus credits';

CREATE TABLE public.account_day (
    debit bigint NOT NULL,
    credit bigint NOT NULL,
    business_date integer NOT NULL,
    account_id integer NOT NULL,
    CONSTRAINT account_day_credit_check CHECK ((credit >= 0)),
    CONSTRAINT account_day_debit_check CHECK ((debit >= 0))
);

COMMENT ON TABLE public.account_day IS 'what a sealed day posted to each account';

ALTER TABLE public.account ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.account_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.attempt_ask (
    subscription_id bigint NOT NULL,
    moved_minor bigint NOT NULL,
    incarnation bigint NOT NULL,
    asked_at timestamp with time zone NOT NULL,
    answered_at timestamp with time zone DEFAULT now() NOT NULL,
    period integer NOT NULL,
    attempt_no smallint NOT NULL,
    ask_no smallint NOT NULL,
    kind smallint NOT NULL,
    finding smallint NOT NULL,
    reason smallint NOT NULL,
    rule_id smallint NOT NULL,
    CONSTRAINT attempt_ask_ask_no_check CHECK ((ask_no >= 1)),
    CONSTRAINT attempt_ask_finding_check CHECK (((finding >= 1) AND (finding <= 7))),
    CONSTRAINT attempt_ask_kind_check CHECK (((kind >= 1) AND (kind <= 2))),
    CONSTRAINT attempt_ask_moved_minor_check CHECK ((moved_minor >= 0))
);

COMMENT ON TABLE public.attempt_ask IS 'what was asked about unknown attempts (1 the same request again, 2 a question) and what it brought; its bytes are in the history';

CREATE TABLE public.attempt_intent (
    subscription_id bigint NOT NULL,
    amount_minor bigint NOT NULL,
    digest_hi bigint NOT NULL,
    digest_lo bigint NOT NULL,
    not_before_ms bigint NOT NULL,
    not_after_ms bigint NOT NULL,
    incarnation bigint NOT NULL,
    intent_at timestamp with time zone NOT NULL,
    business_at_ms bigint NOT NULL,
    period integer NOT NULL,
    book_version integer NOT NULL,
    attempt_no smallint NOT NULL,
    op smallint NOT NULL,
    round smallint NOT NULL,
    step smallint NOT NULL,
    currency smallint NOT NULL,
    rule_id smallint NOT NULL,
    cap_day integer DEFAULT 0 NOT NULL,
    parent_no smallint DEFAULT 0 NOT NULL,
    CONSTRAINT attempt_intent_amount_minor_check CHECK ((amount_minor > 0)),
    CONSTRAINT attempt_intent_attempt_no_check CHECK (((attempt_no >= 1) AND (attempt_no <= 1023)))
)
PARTITION BY RANGE (period);

COMMENT ON COLUMN public.attempt_intent.cap_day IS 'the local day on which its amount was reserved in subscriber_usage; 0 where no caps are';

COMMENT ON COLUMN public.attempt_intent.parent_no IS 'the attempt that a confirm, a cancel or a refund is about; 0 for none';

CREATE TABLE public.attempt_open (
    subscription_id bigint NOT NULL,
    amount_minor bigint NOT NULL,
    deadline_at_ms bigint,
    since timestamp with time zone DEFAULT now() NOT NULL,
    period integer NOT NULL,
    attempt_no smallint NOT NULL,
    kind smallint NOT NULL,
    reason smallint NOT NULL,
    rule_id smallint NOT NULL,
    currency smallint NOT NULL,
    carrier_code text,
    carrier_txn_id text,
    assignee text,
    next_ask_at timestamp with time zone DEFAULT now() NOT NULL,
    last_write_at timestamp with time zone,
    last_writer bigint,
    asks smallint DEFAULT 0 NOT NULL,
    CONSTRAINT attempt_open_asks_check CHECK ((asks >= 0)),
    CONSTRAINT attempt_open_kind_check CHECK (((kind >= 1) AND (kind <= 3)))
);

COMMENT ON TABLE public.attempt_open IS 'attempts that are accepted (1), unknown (2) or in review (3): small, and every row is somebody''s money';

COMMENT ON COLUMN public.attempt_open.next_ask_at IS 'when the shard''s owner looks at an unknown attempt next';

COMMENT ON COLUMN public.attempt_open.last_write_at IS 'when the same request was last sent again: set before, and when its answer was kept';

COMMENT ON COLUMN public.attempt_open.last_writer IS 'the incarnation that did so';

COMMENT ON COLUMN public.attempt_open.asks IS 'repeats and questions so far; one without its row in attempt_ask: its sender died over it';

CREATE TABLE public.attempt_outcome (
    subscription_id bigint NOT NULL,
    moved_minor bigint NOT NULL,
    collected_after bigint NOT NULL,
    incarnation bigint NOT NULL,
    decided_at timestamp with time zone NOT NULL,
    business_at_ms bigint NOT NULL,
    period integer NOT NULL,
    latency_us integer NOT NULL,
    attempt_no smallint NOT NULL,
    class smallint NOT NULL,
    reason smallint NOT NULL,
    charge_state smallint NOT NULL,
    rule_id smallint NOT NULL,
    carrier_code text,
    carrier_txn_id text,
    CONSTRAINT attempt_outcome_carrier_code_check CHECK ((length(carrier_code) <= 64)),
    CONSTRAINT attempt_outcome_carrier_txn_id_check CHECK ((length(carrier_txn_id) <= 64)),
    CONSTRAINT attempt_outcome_check CHECK (((class = 5) = (moved_minor > 0))),
    CONSTRAINT attempt_outcome_class_check CHECK (((class >= 5) AND (class <= 10))),
    CONSTRAINT attempt_outcome_moved_minor_check CHECK ((moved_minor >= 0))
)
PARTITION BY RANGE (period);

CREATE TABLE public.audit_head (
    only_row boolean DEFAULT true NOT NULL,
    seq bigint NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT audit_head_digest_check CHECK ((length(digest) = 32)),
    CONSTRAINT audit_head_only_row_check CHECK (only_row)
);

COMMENT ON TABLE public.audit_head IS 'the last row of audit_log: locked while the next is made, and shows when the last ones are gone';

CREATE TABLE public.audit_log (
    seq bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    who text NOT NULL,
    account text NOT NULL,
    act text NOT NULL,
    subject text NOT NULL,
    details text NOT NULL,
    before bytea NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT audit_log_account_check CHECK (((length(account) >= 1) AND (length(account) <= 200))),
    CONSTRAINT audit_log_act_check CHECK (((length(act) >= 1) AND (length(act) <= 64))),
    CONSTRAINT audit_log_before_check CHECK ((length(before) = 32)),
    CONSTRAINT audit_log_details_check CHECK ((length(details) <= 4000)),
    CONSTRAINT audit_log_digest_check CHECK ((length(digest) = 32)),
    CONSTRAINT audit_log_subject_check CHECK ((length(subject) <= 200)),
    CONSTRAINT audit_log_who_check CHECK (((length(who) >= 1) AND (length(who) <= 64)))
);

COMMENT ON TABLE public.audit_log IS 'one row per act of a person, in the commit of the act; each row''s digest covers the one before. who: the name that was given, else the account''s; account: of the machine';

CREATE TABLE public.book_version (
    version integer NOT NULL,
    digest bytea NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    files jsonb NOT NULL,
    applied_by text DEFAULT ''::text NOT NULL,
    note text DEFAULT ''::text NOT NULL,
    CONSTRAINT book_version_applied_by_check CHECK ((length(applied_by) <= 128)),
    CONSTRAINT book_version_note_check CHECK ((length(note) <= 500))
);

COMMENT ON TABLE public.book_version IS 'every version of the book that was ever in force, with its files; never changed';

CREATE TABLE public.business_clock (
    only_row boolean DEFAULT true NOT NULL,
    base_machine_ms bigint NOT NULL,
    base_business_ms bigint NOT NULL,
    scale integer NOT NULL,
    CONSTRAINT business_clock_only_row_check CHECK (only_row),
    CONSTRAINT business_clock_scale_check CHECK (((scale >= 0) AND (scale <= 1000000)))
);

COMMENT ON TABLE public.business_clock IS 'business now = base_business + (machine now - base_machine) * scale; one clock, read by all processes';

CREATE TABLE public.callback_inbox (
    id bigint NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    look_at timestamp with time zone DEFAULT now() NOT NULL,
    subscription_id bigint,
    carrier_no integer NOT NULL,
    period integer,
    attempt_no smallint,
    kek_version smallint NOT NULL,
    state smallint DEFAULT 0 NOT NULL,
    authenticated boolean NOT NULL,
    fact bytea NOT NULL,
    sealed bytea NOT NULL,
    carrier_txn_id text,
    CONSTRAINT callback_inbox_carrier_txn_id_check CHECK ((length(carrier_txn_id) <= 64)),
    CONSTRAINT callback_inbox_fact_check CHECK ((length(fact) = 32)),
    CONSTRAINT callback_inbox_sealed_check CHECK ((length(sealed) <= 131072)),
    CONSTRAINT callback_inbox_state_check CHECK (((state >= 0) AND (state <= 6)))
);

COMMENT ON TABLE public.callback_inbox IS 'carriers'' own messages, raw and sealed; two with the same fact (the carrier''s id of the message, what it says) are one';

COMMENT ON COLUMN public.callback_inbox.state IS '0 new, 1 given to the owner as evidence, 2 duplicate of what is recorded, 3 refused: it says nothing, 4 a hint, 5 conflict: a case, 6 no attempt of ours';

ALTER TABLE public.callback_inbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.callback_inbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.carrier (
    carrier_no integer NOT NULL,
    id text NOT NULL,
    currency smallint NOT NULL,
    slices integer NOT NULL,
    CONSTRAINT carrier_slices_check CHECK ((((slices >= 1) AND (slices <= 4096)) AND ((slices & (slices - 1)) = 0)))
);

ALTER TABLE public.carrier ALTER COLUMN carrier_no ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.carrier_carrier_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.carrier_file (
    id bigint NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    covers_from timestamp with time zone,
    covers_until timestamp with time zone,
    bytes bigint DEFAULT 0 NOT NULL,
    rows bigint DEFAULT 0 NOT NULL,
    matched_line bigint DEFAULT 0 NOT NULL,
    contradicts bigint,
    agreed bigint DEFAULT 0 NOT NULL,
    given bigint DEFAULT 0 NOT NULL,
    conflicts bigint DEFAULT 0 NOT NULL,
    orphans bigint DEFAULT 0 NOT NULL,
    foreign_rows bigint DEFAULT 0 NOT NULL,
    carrier_no integer NOT NULL,
    kek_version smallint NOT NULL,
    state smallint DEFAULT 0 NOT NULL,
    digest bytea NOT NULL,
    salt bytea NOT NULL,
    name text NOT NULL,
    sums text DEFAULT ''::text NOT NULL,
    flaw text,
    taken_by text NOT NULL,
    CONSTRAINT carrier_file_check CHECK ((covers_from < covers_until)),
    CONSTRAINT carrier_file_check1 CHECK (((state <> ALL (ARRAY[2, 4])) OR (covers_from IS NOT NULL))),
    CONSTRAINT carrier_file_digest_check CHECK ((length(digest) = 32)),
    CONSTRAINT carrier_file_flaw_check CHECK (((length(flaw) >= 1) AND (length(flaw) <= 500))),
    CONSTRAINT carrier_file_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT carrier_file_salt_check CHECK ((length(salt) = 16)),
    CONSTRAINT carrier_file_state_check CHECK (((state >= 0) AND (state <= 4))),
    CONSTRAINT carrier_file_sums_check CHECK ((length(sums) <= 1000)),
    CONSTRAINT carrier_file_taken_by_check CHECK (((length(taken_by) >= 1) AND (length(taken_by) <= 64)))
);

COMMENT ON TABLE public.carrier_file IS 'a carrier''s reconciliation file; its digest is its identity';

COMMENT ON COLUMN public.carrier_file.state IS '0 kept, 1 being matched, up to matched_line, 2 complete and matched: its absences count, 3 incomplete: flaw says why, 4 contradicts another complete file of the same span';

CREATE TABLE public.carrier_file_chunk (
    file_id bigint NOT NULL,
    no integer NOT NULL,
    sealed bytea NOT NULL,
    CONSTRAINT carrier_file_chunk_sealed_check CHECK ((length(sealed) <= 1048576))
);

COMMENT ON TABLE public.carrier_file_chunk IS 'the raw file, piece by piece under a key of its own: it names subscribers';

ALTER TABLE public.carrier_file ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.carrier_file_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.carrier_file_row (
    id bigint NOT NULL,
    file_id bigint NOT NULL,
    line bigint NOT NULL,
    subscription_id bigint,
    moved_minor bigint NOT NULL,
    ref_seed bigint,
    period integer,
    attempt_no smallint,
    reason smallint NOT NULL,
    state smallint NOT NULL,
    our_ref text NOT NULL,
    carrier_txn_id text,
    code text NOT NULL,
    sealed bytea NOT NULL,
    CONSTRAINT carrier_file_row_carrier_txn_id_check CHECK ((length(carrier_txn_id) <= 64)),
    CONSTRAINT carrier_file_row_code_check CHECK ((length(code) <= 64)),
    CONSTRAINT carrier_file_row_our_ref_check CHECK ((length(our_ref) <= 64)),
    CONSTRAINT carrier_file_row_sealed_check CHECK ((length(sealed) <= 8192)),
    CONSTRAINT carrier_file_row_state_check CHECK (((state >= 1) AND (state <= 6)))
);

COMMENT ON TABLE public.carrier_file_row IS 'rows that do not merely say what is recorded already; ref_seed, period, attempt_no: of our key, whether we know the attempt or not';

COMMENT ON COLUMN public.carrier_file_row.state IS '1 given to the owner as evidence, 2 contradicts the attempt or what is recorded: a case, 3 orphan: our key, no attempt of ours, 4 somebody else''s key, 5 says nothing that counts, 6 of a file that proves nothing';

ALTER TABLE public.carrier_file_row ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.carrier_file_row_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.case_file (
    id bigint NOT NULL,
    subscription_id bigint NOT NULL,
    opened_at timestamp with time zone DEFAULT now() NOT NULL,
    period integer,
    attempt_no smallint,
    kind text NOT NULL,
    what text NOT NULL
);

ALTER TABLE public.case_file ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.case_file_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.charge_aside (
    subscription_id bigint NOT NULL,
    due_minor bigint NOT NULL,
    collected_minor bigint NOT NULL,
    refunded_minor bigint DEFAULT 0 NOT NULL,
    reversed_minor bigint DEFAULT 0 NOT NULL,
    next_at_ms bigint,
    expires_at_ms bigint,
    period integer NOT NULL,
    rev integer DEFAULT 0 NOT NULL,
    attempt_no smallint NOT NULL,
    round smallint NOT NULL,
    step smallint NOT NULL,
    open smallint NOT NULL,
    state smallint NOT NULL,
    next_kind smallint DEFAULT 0 NOT NULL,
    currency smallint NOT NULL
);

COMMENT ON TABLE public.charge_aside IS 'charges that left the subscription''s row unfinished: blocked by an open attempt, or in arrears';

CREATE TABLE public.charge_minute (
    minute_ms bigint NOT NULL,
    count bigint NOT NULL,
    amount_minor bigint NOT NULL,
    incarnation bigint NOT NULL,
    carrier_no integer NOT NULL,
    plan_no integer NOT NULL,
    zone_no smallint NOT NULL,
    class smallint NOT NULL,
    reason smallint NOT NULL,
    charge_state smallint NOT NULL
);

COMMENT ON TABLE public.charge_minute IS 'summed in memory, appended every few seconds: for status and charts, never for money';

CREATE TABLE public.charge_note (
    subscription_id bigint NOT NULL,
    until_ms bigint,
    at timestamp with time zone DEFAULT now() NOT NULL,
    business_at_ms bigint NOT NULL,
    period integer NOT NULL,
    rev integer NOT NULL,
    kind smallint NOT NULL,
    charge_state smallint NOT NULL,
    rule_id smallint NOT NULL,
    before_period integer
)
PARTITION BY RANGE (period);

COMMENT ON TABLE public.charge_note IS 'what happened to a charge without an attempt; rev is the subscription''s before the change';

COMMENT ON COLUMN public.charge_note.before_period IS 'the note is about a range: from period up to this one, without it';

CREATE TABLE public.charge_reversal (
    subscription_id bigint NOT NULL,
    amount_minor bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    business_at_ms bigint NOT NULL,
    period integer NOT NULL,
    reversal_no smallint NOT NULL,
    currency smallint NOT NULL,
    reference text NOT NULL,
    CONSTRAINT charge_reversal_amount_minor_check CHECK ((amount_minor > 0)),
    CONSTRAINT charge_reversal_reference_check CHECK (((length(reference) >= 1) AND (length(reference) <= 64))),
    CONSTRAINT charge_reversal_reversal_no_check CHECK ((reversal_no > 0))
);

COMMENT ON TABLE public.charge_reversal IS 'what carriers took back; the reference is the carrier''s own. Its transfer and what it revokes have the attempt number -reversal_no';

CREATE TABLE public.database_guard (
    only_row boolean DEFAULT true NOT NULL,
    system_identifier bigint NOT NULL,
    counter bigint NOT NULL,
    touched_at timestamp with time zone NOT NULL,
    timeline integer NOT NULL,
    CONSTRAINT database_guard_only_row_check CHECK (only_row)
);

COMMENT ON TABLE public.database_guard IS 'which server this database lived on when a worker last wrote here: a promoted standby is on another timeline than its own row says';

CREATE TABLE public.day_seal (
    business_date integer NOT NULL,
    sealed_at timestamp with time zone DEFAULT now() NOT NULL,
    transfers bigint NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT day_seal_digest_check CHECK ((length(digest) = 32))
);

COMMENT ON TABLE public.day_seal IS 'digest = sha256(digest of the day before, the date, the totals of account_day)';

ALTER TABLE public.decision_proposal ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.decision_proposal_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.entitlement_grant (
    subscription_id bigint NOT NULL,
    from_ms bigint NOT NULL,
    until_ms bigint,
    period integer NOT NULL,
    attempt_no smallint NOT NULL,
    variant smallint DEFAULT 0 NOT NULL
)
PARTITION BY RANGE (period);

COMMENT ON COLUMN public.entitlement_grant.variant IS 'what was bought: 0 everything, else the step of the ladder';

CREATE TABLE public.key_check (
    kek_version smallint NOT NULL,
    sealed bytea NOT NULL,
    pepper bytea NOT NULL
);

COMMENT ON TABLE public.key_check IS 'proves that a process has the keys under which this database was written';

CREATE TABLE public.ledger_open (
    only_row boolean DEFAULT true NOT NULL,
    closed_date integer NOT NULL,
    CONSTRAINT ledger_open_only_row_check CHECK (only_row)
);

COMMENT ON TABLE public.ledger_open IS 'the last business date (days since 2000-01-01) that takes no postings any more; they fall on the next';

CREATE TABLE public.lost_attempt (
    subscription_id bigint NOT NULL,
    amount_minor bigint NOT NULL,
    digest_hi bigint NOT NULL,
    digest_lo bigint NOT NULL,
    not_before_ms bigint NOT NULL,
    not_after_ms bigint NOT NULL,
    business_at_ms bigint NOT NULL,
    incarnation bigint NOT NULL,
    intent_at timestamp with time zone NOT NULL,
    listed_at timestamp with time zone DEFAULT now() NOT NULL,
    period integer NOT NULL,
    book_version integer NOT NULL,
    attempt_no smallint NOT NULL,
    op smallint NOT NULL,
    round smallint NOT NULL,
    step smallint NOT NULL,
    currency smallint NOT NULL,
    rule_id smallint NOT NULL,
    parent_no smallint NOT NULL,
    state smallint DEFAULT 0 NOT NULL,
    chain boolean DEFAULT false NOT NULL,
    follows boolean DEFAULT false NOT NULL,
    CONSTRAINT lost_attempt_amount_minor_check CHECK ((amount_minor > 0)),
    CONSTRAINT lost_attempt_state_check CHECK (((state >= 0) AND (state <= 3)))
);

COMMENT ON TABLE public.lost_attempt IS 'attempts that may have been sent and whose intents a failover lost; nothing of their charges is begun meanwhile';

COMMENT ON COLUMN public.lost_attempt.state IS '0 waits for the attempt before it, 1 its intent is here again, 2 the carrier knew it, so the next one is asked about too, 3 its subscription is lost: a case';

COMMENT ON COLUMN public.lost_attempt.chain IS 'not listed by a spool: assumed, because a spool is missing';

COMMENT ON COLUMN public.lost_attempt.follows IS 'assumed because the attempt before it was: intent_at is the earliest that it may have had, and its intent is made when that one is settled';

CREATE TABLE public.merchant (
    merchant_no integer NOT NULL,
    id text NOT NULL
);

ALTER TABLE public.merchant ALTER COLUMN merchant_no ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.merchant_merchant_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.month_seal (
    month integer NOT NULL,
    sealed_at timestamp with time zone DEFAULT now() NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT month_seal_digest_check CHECK ((length(digest) = 32)),
    CONSTRAINT month_seal_month_check CHECK ((((month % 100) >= 1) AND ((month % 100) <= 12)))
);

COMMENT ON TABLE public.month_seal IS 'digest = sha256(digest of the month before, the month, the digests of its days)';

CREATE TABLE public.msisdn_directory (
    subscriber_id bigint NOT NULL,
    valid_from timestamp with time zone DEFAULT now() NOT NULL,
    valid_to timestamp with time zone,
    carrier_no integer NOT NULL,
    msisdn_hmac bytea NOT NULL
);

CREATE TABLE public.outbox (
    id bigint NOT NULL,
    business_at_ms bigint NOT NULL,
    merchant_no integer NOT NULL,
    subscription_ids bigint[] NOT NULL,
    amounts bigint[] NOT NULL,
    periods integer[] NOT NULL,
    revs integer[] NOT NULL,
    events smallint[] NOT NULL
)
WITH (autovacuum_analyze_scale_factor='1', autovacuum_analyze_threshold='100000');
ALTER TABLE ONLY public.outbox ALTER COLUMN subscription_ids SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.outbox ALTER COLUMN amounts SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.outbox ALTER COLUMN periods SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.outbox ALTER COLUMN revs SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.outbox ALTER COLUMN events SET STORAGE EXTERNAL;

COMMENT ON TABLE public.outbox IS 'one row per merchant and batch; readers claim with SKIP LOCKED and delete, never id > last';

ALTER TABLE public.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.period_partition (
    low_period integer NOT NULL,
    high_period integer NOT NULL
);

COMMENT ON TABLE public.period_partition IS 'which partitions exist; periods outside of them get the verdict no_partition';

CREATE TABLE public.plan (
    plan_no integer NOT NULL,
    id text NOT NULL,
    merchant_no integer NOT NULL,
    carrier_no integer NOT NULL
);

ALTER TABLE public.plan ALTER COLUMN plan_no ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.plan_plan_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.quarantine (
    id bigint NOT NULL,
    found_at timestamp with time zone DEFAULT now() NOT NULL,
    window_from timestamp with time zone NOT NULL,
    deadline_at timestamp with time zone NOT NULL,
    forced_at timestamp with time zone,
    seen_counter bigint NOT NULL,
    seen_lsn bigint NOT NULL,
    from_system bigint NOT NULL,
    from_timeline integer NOT NULL,
    to_timeline integer NOT NULL,
    why text NOT NULL,
    forced_by text
);

COMMENT ON TABLE public.quarantine IS 'one per failover: what was begun since window_from may have been lost';

COMMENT ON COLUMN public.quarantine.deadline_at IS 'spools that were not handed in by then are not waited for: every charge that was due is asked about';

COMMENT ON COLUMN public.quarantine.forced_at IS 'somebody said not to wait';

COMMENT ON COLUMN public.quarantine.from_system IS 'the cluster that the database was kept on before: another one only where somebody said that it was moved';

ALTER TABLE public.quarantine ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.quarantine_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.quarantine_spool (
    quarantine_id bigint NOT NULL,
    handed_in_at timestamp with time zone,
    lines bigint DEFAULT 0 NOT NULL,
    lost bigint DEFAULT 0 NOT NULL,
    host text NOT NULL,
    spool text NOT NULL,
    boot_id text NOT NULL
);

COMMENT ON TABLE public.quarantine_spool IS 'spools of the incarnations that lived in the window, and whose lines were handed in; lines: sent in the window, lost: of those without an intent here';

CREATE TABLE public.shard_counter (
    shard integer NOT NULL,
    next_subscriber bigint DEFAULT 1 NOT NULL,
    next_subscription bigint DEFAULT 1 NOT NULL
);

CREATE TABLE public.shard_inbox (
    id bigint NOT NULL,
    subscription_id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    shard integer NOT NULL,
    kind smallint NOT NULL,
    payload bytea NOT NULL
);

COMMENT ON TABLE public.shard_inbox IS 'what everybody but the owner wants of a shard; the owner deletes in the commit that applies';

ALTER TABLE public.shard_inbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.shard_inbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.shard_owner (
    shard integer NOT NULL,
    slot integer,
    held smallint DEFAULT 0 NOT NULL,
    CONSTRAINT shard_owner_held_check CHECK (((held >= 0) AND (held <= 2)))
);

COMMENT ON COLUMN public.shard_owner.held IS '1 quarantined: nothing is begun; 2 some of its charges are in lost_attempt: those are not begun';

CREATE TABLE public.shard_progress (
    shard integer NOT NULL,
    low_water timestamp with time zone NOT NULL
);

COMMENT ON TABLE public.shard_progress IS 'every intent before low_water has its outcome or its attempt_open row';

CREATE TABLE public.shard_quarantine (
    quarantine_id bigint NOT NULL,
    resumed_at timestamp with time zone,
    doubt_until_ms bigint,
    inbox_until bigint,
    listed bigint DEFAULT 0 NOT NULL,
    shard integer NOT NULL,
    how text,
    CONSTRAINT shard_quarantine_check CHECK (((resumed_at IS NULL) = (how IS NULL))),
    CONSTRAINT shard_quarantine_how_check CHECK ((how = ANY (ARRAY['listed'::text, 'all'::text])))
);

COMMENT ON COLUMN public.shard_quarantine.inbox_until IS 'refunds asked for by inbox rows up to this one may have been sent too';

COMMENT ON COLUMN public.shard_quarantine.how IS 'listed: every spool was handed in, so that only what they list is asked about; all: every charge that was due by doubt_until_ms (business time) is';

CREATE TABLE public.subscriber (
    id bigint NOT NULL,
    stop_at_ms bigint,
    zone_no smallint NOT NULL,
    kek_version smallint NOT NULL,
    pepper_version smallint NOT NULL,
    msisdn_hmac bytea NOT NULL,
    key_salt bytea NOT NULL,
    msisdn_ct bytea NOT NULL,
    CONSTRAINT subscriber_key_salt_check CHECK ((length(key_salt) = 16)),
    CONSTRAINT subscriber_msisdn_ct_check CHECK (((length(msisdn_ct) >= 29) AND (length(msisdn_ct) <= 64))),
    CONSTRAINT subscriber_msisdn_hmac_check CHECK ((length(msisdn_hmac) = 32))
);

COMMENT ON TABLE public.subscriber IS 'one line at one carrier; the MSISDN exists only as ciphertext and keyed hash';

CREATE TABLE public.subscriber_usage (
    subscriber_id bigint NOT NULL,
    day_minor bigint NOT NULL,
    week_minor bigint NOT NULL,
    month_minor bigint NOT NULL,
    day integer NOT NULL,
    week integer NOT NULL,
    month integer NOT NULL,
    day_requests integer NOT NULL,
    week_requests integer NOT NULL,
    month_requests integer NOT NULL,
    scope smallint DEFAULT 1 NOT NULL,
    currency smallint NOT NULL,
    CONSTRAINT subscriber_usage_day_minor_check CHECK ((day_minor >= 0)),
    CONSTRAINT subscriber_usage_day_requests_check CHECK ((day_requests >= 0)),
    CONSTRAINT subscriber_usage_month_minor_check CHECK ((month_minor >= 0)),
    CONSTRAINT subscriber_usage_month_requests_check CHECK ((month_requests >= 0)),
    CONSTRAINT subscriber_usage_week_minor_check CHECK ((week_minor >= 0)),
    CONSTRAINT subscriber_usage_week_requests_check CHECK ((week_requests >= 0))
)
WITH (fillfactor='50');

COMMENT ON TABLE public.subscriber_usage IS 'only where caps exist: what is collected, on its way or unknown, over all plans of a subscriber (scope 1). Days count from 2000-01-01 in its own zone: the day, the Monday of its week, the first of its month; they never move back';

CREATE TABLE public.subscription (
    id bigint NOT NULL,
    subscriber_id bigint NOT NULL,
    ref_seed bigint NOT NULL,
    due_minor bigint NOT NULL,
    collected_minor bigint DEFAULT 0 NOT NULL,
    next_at_ms bigint,
    retry_at_ms bigint,
    paid_until_ms bigint,
    state_until_ms bigint,
    stop_at_ms bigint,
    plan_no integer NOT NULL,
    merchant_no integer NOT NULL,
    book_version integer NOT NULL,
    anchor_day integer NOT NULL,
    period integer NOT NULL,
    rev integer DEFAULT 0 NOT NULL,
    flags integer DEFAULT 0 NOT NULL,
    zone_no smallint NOT NULL,
    anchor_minute smallint NOT NULL,
    currency smallint NOT NULL,
    state smallint NOT NULL,
    attempt_no smallint DEFAULT 0 NOT NULL,
    round smallint DEFAULT 0 NOT NULL,
    step smallint DEFAULT 0 NOT NULL,
    open smallint DEFAULT 0 NOT NULL,
    deferrals smallint DEFAULT 0 NOT NULL,
    next_kind smallint NOT NULL,
    notice_at_ms bigint,
    anchor_done integer DEFAULT 0 NOT NULL,
    tries smallint DEFAULT 0 NOT NULL,
    try_day smallint DEFAULT 0 NOT NULL,
    day_tries smallint DEFAULT 0 NOT NULL,
    consent_until_ms bigint,
    reserved_until_ms bigint,
    reserved_minor bigint,
    reserved_no smallint,
    CONSTRAINT subscription_anchor_minute_check CHECK (((anchor_minute >= 0) AND (anchor_minute <= 1439))),
    CONSTRAINT subscription_attempt_no_check CHECK (((attempt_no >= 0) AND (attempt_no <= 1023))),
    CONSTRAINT subscription_check CHECK (((collected_minor >= 0) AND (collected_minor <= due_minor))),
    CONSTRAINT subscription_check1 CHECK ((((reserved_no IS NULL) = (reserved_minor IS NULL)) AND ((reserved_no IS NULL) = (reserved_until_ms IS NULL)))),
    CONSTRAINT subscription_due_minor_check CHECK ((due_minor > 0)),
    CONSTRAINT subscription_open_check CHECK (((open >= 0) AND (open <= 3))),
    CONSTRAINT subscription_state_check CHECK (((state >= 1) AND (state <= 10)))
)
WITH (fillfactor='50', autovacuum_analyze_scale_factor='1', autovacuum_analyze_threshold='1000000');

COMMENT ON TABLE public.subscription IS 'the only row updated per charge, and HOT: no index on anything that a charge changes';

COMMENT ON COLUMN public.subscription.book_version IS 'under which the charge of the current period is decided, once it has an attempt';

COMMENT ON COLUMN public.subscription.anchor_done IS 'periods that were counted under earlier anchors';

COMMENT ON COLUMN public.subscription.tries IS 'requests of this charge that counted; day_tries of them on the local day try_day';

COMMENT ON COLUMN public.subscription.consent_until_ms IS 'from then on nobody has agreed any more: nothing is charged until it is renewed';

CREATE TABLE public.subscription_ref (
    ref_seed bigint NOT NULL,
    subscription_id bigint NOT NULL,
    merchant_no integer NOT NULL,
    digest bytea NOT NULL,
    CONSTRAINT subscription_ref_digest_check CHECK ((length(digest) = 32))
);

COMMENT ON TABLE public.subscription_ref IS 'the merchant''s own reference; apart from subscription, whose row is rewritten per charge';

CREATE TABLE public.top_up_notice (
    subscription_id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    notice text NOT NULL,
    CONSTRAINT top_up_notice_notice_check CHECK (((length(notice) >= 1) AND (length(notice) <= 64)))
);

COMMENT ON TABLE public.top_up_notice IS 'ids of notices that were taken, so that none counts twice; kept for 30 days';

CREATE TABLE public.transfer (
    source_id bigint NOT NULL,
    amount bigint NOT NULL,
    period integer NOT NULL,
    debit_account integer NOT NULL,
    credit_account integer NOT NULL,
    business_date integer NOT NULL,
    attempt_no smallint NOT NULL,
    leg smallint NOT NULL,
    asset smallint NOT NULL,
    CONSTRAINT transfer_amount_check CHECK ((amount > 0)),
    CONSTRAINT transfer_check CHECK ((debit_account <> credit_account))
)
PARTITION BY RANGE (period);

COMMENT ON TABLE public.transfer IS 'leg is the kind: an attempt posts each kind at most once';

CREATE TABLE public.worker (
    slot integer NOT NULL,
    incarnation bigint NOT NULL,
    epoch integer NOT NULL
);

COMMENT ON TABLE public.worker IS 'the fence: locked FOR SHARE once per batch';

CREATE TABLE public.worker_incarnation (
    incarnation bigint NOT NULL,
    slot integer NOT NULL,
    epoch integer NOT NULL,
    host text NOT NULL,
    boot_id text NOT NULL,
    spool text NOT NULL,
    endpoint text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    fenced_at timestamp with time zone
);

CREATE TABLE public.worker_lease (
    slot integer NOT NULL,
    incarnation bigint NOT NULL,
    epoch integer NOT NULL,
    renewals bigint DEFAULT 0 NOT NULL
);

COMMENT ON TABLE public.worker_lease IS 'apart from worker, so that a renewal never queues behind a batch';

CREATE TABLE public.zone (
    zone_no smallint NOT NULL,
    name text NOT NULL
);

ALTER TABLE public.zone ALTER COLUMN zone_no ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.zone_zone_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY public.account_balance
    ADD CONSTRAINT account_balance_pkey PRIMARY KEY (account_id, stripe);

ALTER TABLE ONLY public.account_day
    ADD CONSTRAINT account_day_pkey PRIMARY KEY (business_date, account_id);

ALTER TABLE ONLY public.account
    ADD CONSTRAINT account_owner_kind_owner_id_purpose_asset_key UNIQUE (owner_kind, owner_id, purpose, asset);

ALTER TABLE ONLY public.account
    ADD CONSTRAINT account_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.attempt_ask
    ADD CONSTRAINT attempt_ask_pkey PRIMARY KEY (subscription_id, period, attempt_no, ask_no);

ALTER TABLE ONLY public.attempt_intent
    ADD CONSTRAINT attempt_intent_pkey PRIMARY KEY (subscription_id, period, attempt_no);

ALTER TABLE ONLY public.attempt_open
    ADD CONSTRAINT attempt_open_pkey PRIMARY KEY (subscription_id, period, attempt_no);

ALTER TABLE ONLY public.attempt_outcome
    ADD CONSTRAINT attempt_outcome_pkey PRIMARY KEY (subscription_id, period, attempt_no);

ALTER TABLE ONLY public.audit_head
    ADD CONSTRAINT audit_head_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (seq);

ALTER TABLE ONLY public.book_version
    ADD CONSTRAINT book_version_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.business_clock
    ADD CONSTRAINT business_clock_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.callback_inbox
    ADD CONSTRAINT callback_inbox_carrier_no_fact_key UNIQUE (carrier_no, fact);

ALTER TABLE ONLY public.callback_inbox
    ADD CONSTRAINT callback_inbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.carrier_file
    ADD CONSTRAINT carrier_file_carrier_no_digest_key UNIQUE (carrier_no, digest);

ALTER TABLE ONLY public.carrier_file_chunk
    ADD CONSTRAINT carrier_file_chunk_pkey PRIMARY KEY (file_id, no);

ALTER TABLE ONLY public.carrier_file
    ADD CONSTRAINT carrier_file_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.carrier_file_row
    ADD CONSTRAINT carrier_file_row_file_id_line_key UNIQUE (file_id, line);

ALTER TABLE ONLY public.carrier_file_row
    ADD CONSTRAINT carrier_file_row_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.carrier
    ADD CONSTRAINT carrier_id_key UNIQUE (id);

ALTER TABLE ONLY public.carrier
    ADD CONSTRAINT carrier_pkey PRIMARY KEY (carrier_no);

ALTER TABLE ONLY public.case_file
    ADD CONSTRAINT case_file_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.charge_aside
    ADD CONSTRAINT charge_aside_pkey PRIMARY KEY (subscription_id, period);

ALTER TABLE ONLY public.charge_note
    ADD CONSTRAINT charge_note_pkey PRIMARY KEY (subscription_id, period, rev);

ALTER TABLE ONLY public.charge_reversal
    ADD CONSTRAINT charge_reversal_pkey PRIMARY KEY (subscription_id, period, reversal_no);

ALTER TABLE ONLY public.charge_reversal
    ADD CONSTRAINT charge_reversal_subscription_id_reference_key UNIQUE (subscription_id, reference);

ALTER TABLE ONLY public.database_guard
    ADD CONSTRAINT database_guard_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.day_seal
    ADD CONSTRAINT day_seal_pkey PRIMARY KEY (business_date);

ALTER TABLE ONLY public.decision_proposal
    ADD CONSTRAINT decision_proposal_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.entitlement_grant
    ADD CONSTRAINT entitlement_grant_pkey PRIMARY KEY (subscription_id, period, attempt_no);

ALTER TABLE ONLY public.key_check
    ADD CONSTRAINT key_check_pkey PRIMARY KEY (kek_version);

ALTER TABLE ONLY public.ledger_open
    ADD CONSTRAINT ledger_open_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.lost_attempt
    ADD CONSTRAINT lost_attempt_pkey PRIMARY KEY (subscription_id, period, attempt_no);

ALTER TABLE ONLY public.merchant
    ADD CONSTRAINT merchant_id_key UNIQUE (id);

ALTER TABLE ONLY public.merchant
    ADD CONSTRAINT merchant_pkey PRIMARY KEY (merchant_no);

ALTER TABLE ONLY public.month_seal
    ADD CONSTRAINT month_seal_pkey PRIMARY KEY (month);

ALTER TABLE ONLY public.msisdn_directory
    ADD CONSTRAINT msisdn_directory_pkey PRIMARY KEY (msisdn_hmac, carrier_no, valid_from);

ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.period_partition
    ADD CONSTRAINT period_partition_pkey PRIMARY KEY (low_period);

ALTER TABLE ONLY public.plan
    ADD CONSTRAINT plan_id_key UNIQUE (id);

ALTER TABLE ONLY public.plan
    ADD CONSTRAINT plan_pkey PRIMARY KEY (plan_no);

ALTER TABLE ONLY public.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.quarantine_spool
    ADD CONSTRAINT quarantine_spool_pkey PRIMARY KEY (quarantine_id, host, spool, boot_id);

ALTER TABLE ONLY public.shard_counter
    ADD CONSTRAINT shard_counter_pkey PRIMARY KEY (shard);

ALTER TABLE ONLY public.shard_inbox
    ADD CONSTRAINT shard_inbox_pkey PRIMARY KEY (shard, id);

ALTER TABLE ONLY public.shard_owner
    ADD CONSTRAINT shard_owner_pkey PRIMARY KEY (shard);

ALTER TABLE ONLY public.shard_progress
    ADD CONSTRAINT shard_progress_pkey PRIMARY KEY (shard);

ALTER TABLE ONLY public.shard_quarantine
    ADD CONSTRAINT shard_quarantine_pkey PRIMARY KEY (quarantine_id, shard);

ALTER TABLE ONLY public.subscriber
    ADD CONSTRAINT subscriber_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.subscriber_usage
    ADD CONSTRAINT subscriber_usage_pkey PRIMARY KEY (subscriber_id, scope, currency);

ALTER TABLE ONLY public.subscription
    ADD CONSTRAINT subscription_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.subscription_ref
    ADD CONSTRAINT subscription_ref_pkey PRIMARY KEY (ref_seed);

ALTER TABLE ONLY public.top_up_notice
    ADD CONSTRAINT top_up_notice_pkey PRIMARY KEY (subscription_id, notice);

ALTER TABLE ONLY public.transfer
    ADD CONSTRAINT transfer_pkey PRIMARY KEY (source_id, period, attempt_no, leg);

ALTER TABLE ONLY public.worker_incarnation
    ADD CONSTRAINT worker_incarnation_pkey PRIMARY KEY (incarnation);

ALTER TABLE ONLY public.worker_incarnation
    ADD CONSTRAINT worker_incarnation_slot_epoch_key UNIQUE (slot, epoch);

ALTER TABLE ONLY public.worker_lease
    ADD CONSTRAINT worker_lease_pkey PRIMARY KEY (slot);

ALTER TABLE ONLY public.worker
    ADD CONSTRAINT worker_pkey PRIMARY KEY (slot);

ALTER TABLE ONLY public.zone
    ADD CONSTRAINT zone_name_key UNIQUE (name);

ALTER TABLE ONLY public.zone
    ADD CONSTRAINT zone_pkey PRIMARY KEY (zone_no);

CREATE INDEX attempt_intent_at ON ONLY public.attempt_intent USING brin (intent_at) WITH (pages_per_range='32', autosummarize='on');

CREATE INDEX attempt_open_ask ON public.attempt_open USING btree (((subscription_id >> 44)), next_ask_at) WHERE (kind = 2);

CREATE INDEX attempt_open_txn ON public.attempt_open USING btree (carrier_txn_id) WHERE (carrier_txn_id IS NOT NULL);

CREATE INDEX callback_inbox_attempt ON public.callback_inbox USING btree (subscription_id, period, attempt_no) WHERE (subscription_id IS NOT NULL);

CREATE INDEX callback_inbox_new ON public.callback_inbox USING btree (look_at) WHERE (state = 0);

CREATE INDEX callback_inbox_txn ON public.callback_inbox USING btree (carrier_txn_id) WHERE (subscription_id IS NOT NULL);

CREATE INDEX carrier_file_covers ON public.carrier_file USING btree (carrier_no, covers_from);

CREATE INDEX carrier_file_row_attempt ON public.carrier_file_row USING btree (ref_seed, period, attempt_no) WHERE (ref_seed IS NOT NULL);

CREATE INDEX charge_aside_fires ON public.charge_aside USING btree (subscription_id) WHERE (next_at_ms IS NOT NULL);

CREATE INDEX charge_minute_at ON public.charge_minute USING brin (minute_ms);

CREATE INDEX charge_reversal_reference ON public.charge_reversal USING btree (reference);

CREATE UNIQUE INDEX decision_proposal_one ON public.decision_proposal USING btree (subscription_id, period, attempt_no) WHERE (state = 0);

CREATE INDEX shard_quarantine_shard ON public.shard_quarantine USING btree (shard);

CREATE INDEX subscription_subscriber ON public.subscription USING btree (subscriber_id);

CREATE INDEX transfer_date ON ONLY public.transfer USING brin (business_date) WITH (pages_per_range='32', autosummarize='on');

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.account_day FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.attempt_ask FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.attempt_intent FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.attempt_outcome FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.audit_log FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.book_version FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.charge_note FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.charge_reversal FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.day_seal FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.month_seal FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON public.transfer FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER never_empty BEFORE TRUNCATE ON public.audit_log FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();

ALTER TABLE ONLY public.carrier_file
    ADD CONSTRAINT carrier_file_carrier_no_fkey FOREIGN KEY (carrier_no) REFERENCES public.carrier(carrier_no);

ALTER TABLE ONLY public.carrier_file_chunk
    ADD CONSTRAINT carrier_file_chunk_file_id_fkey FOREIGN KEY (file_id) REFERENCES public.carrier_file(id);

ALTER TABLE ONLY public.carrier_file
    ADD CONSTRAINT carrier_file_contradicts_fkey FOREIGN KEY (contradicts) REFERENCES public.carrier_file(id);

ALTER TABLE ONLY public.carrier_file_row
    ADD CONSTRAINT carrier_file_row_file_id_fkey FOREIGN KEY (file_id) REFERENCES public.carrier_file(id);

ALTER TABLE ONLY public.plan
    ADD CONSTRAINT plan_carrier_no_fkey FOREIGN KEY (carrier_no) REFERENCES public.carrier(carrier_no);

ALTER TABLE ONLY public.plan
    ADD CONSTRAINT plan_merchant_no_fkey FOREIGN KEY (merchant_no) REFERENCES public.merchant(merchant_no);

ALTER TABLE ONLY public.quarantine_spool
    ADD CONSTRAINT quarantine_spool_quarantine_id_fkey FOREIGN KEY (quarantine_id) REFERENCES public.quarantine(id);

ALTER TABLE ONLY public.shard_quarantine
    ADD CONSTRAINT shard_quarantine_quarantine_id_fkey FOREIGN KEY (quarantine_id) REFERENCES public.quarantine(id);

