-- What people do: a chain of records that shows any change, and decisions that need two of them.

CREATE TABLE audit_log (
    seq     bigint PRIMARY KEY,
    at      timestamptz NOT NULL,
    who     text NOT NULL CHECK (length(who) BETWEEN 1 AND 64),
    account text NOT NULL CHECK (length(account) BETWEEN 1 AND 200),
    act     text NOT NULL CHECK (length(act) BETWEEN 1 AND 64),
    subject text NOT NULL CHECK (length(subject) <= 200),
    details text NOT NULL CHECK (length(details) <= 4000),
    before  bytea NOT NULL CHECK (length(before) = 32),
    digest  bytea NOT NULL CHECK (length(digest) = 32)
);
COMMENT ON TABLE audit_log IS 'one row per act of a person, in the commit of the act; each row''s digest covers the one before. who: the name that was given, else the account''s; account: of the machine';
CREATE TABLE audit_head (
    only_row bool PRIMARY KEY DEFAULT true CHECK (only_row),
    seq      bigint NOT NULL,
    digest   bytea NOT NULL CHECK (length(digest) = 32)
);
COMMENT ON TABLE audit_head IS 'the last row of audit_log: locked while the next is made, and shows when the last ones are gone';
INSERT INTO audit_head (seq, digest) VALUES (0, decode(repeat('00', 32), 'hex'));
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_empty BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE decision_proposal (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id  bigint NOT NULL,
    moved_minor      bigint NOT NULL CHECK (moved_minor >= 0),
    open_since       timestamptz NOT NULL,
    proposed_at      timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz NOT NULL,
    decided_at       timestamptz,
    period           int  NOT NULL,
    attempt_no       int2 NOT NULL,
    open_kind        int2 NOT NULL,
    reason           int2 NOT NULL,
    currency         int2 NOT NULL,
    state            int2 NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 2),
    proposed_by      text NOT NULL,
    proposed_account text NOT NULL,
    approved_by      text CHECK (lower(approved_by) <> lower(proposed_by)),
    approved_account text,
    why              text NOT NULL CHECK (length(why) BETWEEN 1 AND 500),
    digest           bytea NOT NULL CHECK (length(digest) = 32),
    CHECK ((state = 1) = (approved_by IS NOT NULL))
);
COMMENT ON TABLE decision_proposal IS 'what became of an attempt that nobody but people can settle: proposed (0), approved by somebody else (1), expired (2)';
COMMENT ON COLUMN decision_proposal.digest IS 'of everything that is approved, and of the attempt as it stood: a change in between is refused';
CREATE UNIQUE INDEX decision_proposal_one ON decision_proposal (subscription_id, period, attempt_no) WHERE state = 0;
