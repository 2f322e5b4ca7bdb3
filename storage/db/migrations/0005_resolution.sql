-- The resolution of UNKNOWN: what was asked about an attempt, and when it is looked at next. These instants are machine
-- time, by the database's clock: that of the intent and of the fence.

ALTER TABLE attempt_open
    ADD next_ask_at   timestamptz NOT NULL DEFAULT now(),
    ADD last_write_at timestamptz,
    ADD last_writer   bigint,
    ADD asks          int2 NOT NULL DEFAULT 0 CHECK (asks >= 0);
COMMENT ON COLUMN attempt_open.next_ask_at IS 'when the shard''s owner looks at an unknown attempt next';
COMMENT ON COLUMN attempt_open.last_write_at IS 'when the same request was last sent again: set before, and when its answer was kept';
COMMENT ON COLUMN attempt_open.last_writer IS 'the incarnation that did so';
COMMENT ON COLUMN attempt_open.asks IS 'repeats and questions so far; one without its row in attempt_ask: its sender died over it';
CREATE INDEX attempt_open_ask ON attempt_open ((subscription_id >> 44), next_ask_at) WHERE kind = 2;

CREATE TABLE attempt_ask (
    subscription_id bigint NOT NULL,
    moved_minor     bigint NOT NULL CHECK (moved_minor >= 0),
    incarnation     bigint NOT NULL,
    asked_at        timestamptz NOT NULL,
    answered_at     timestamptz NOT NULL DEFAULT now(),
    period          int  NOT NULL,
    attempt_no      int2 NOT NULL,
    ask_no          int2 NOT NULL CHECK (ask_no >= 1),
    kind            int2 NOT NULL CHECK (kind BETWEEN 1 AND 2),
    finding         int2 NOT NULL CHECK (finding BETWEEN 1 AND 7),
    reason          int2 NOT NULL,
    rule_id         int2 NOT NULL,
    PRIMARY KEY (subscription_id, period, attempt_no, ask_no)
);
COMMENT ON TABLE attempt_ask IS 'what was asked about unknown attempts (1 the same request again, 2 a question) and what it brought; its bytes are in the history';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON attempt_ask FOR EACH ROW EXECUTE FUNCTION refuse_change();
