-- What carriers send by themselves: kept before it is acknowledged, then matched with an attempt and given to the owner
-- of its shard as evidence. Small and short-lived: what is settled is deleted after 30 days.

CREATE TABLE callback_inbox (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at     timestamptz NOT NULL DEFAULT now(),
    look_at         timestamptz NOT NULL DEFAULT now(),
    subscription_id bigint,
    carrier_no      int  NOT NULL,
    period          int,
    attempt_no      int2,
    kek_version     int2 NOT NULL,
    state           int2 NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 6),
    authenticated   bool NOT NULL,
    fact            bytea NOT NULL CHECK (length(fact) = 32),
    sealed          bytea NOT NULL CHECK (length(sealed) <= 131072),
    carrier_txn_id  text CHECK (length(carrier_txn_id) <= 64),
    UNIQUE (carrier_no, fact)
);
COMMENT ON TABLE callback_inbox IS 'carriers'' own messages, raw and sealed; two with the same fact (the carrier''s id of the message, what it says) are one';
COMMENT ON COLUMN callback_inbox.state IS '0 new, 1 given to the owner as evidence, 2 duplicate of what is recorded, 3 refused: it says nothing, 4 a hint, 5 conflict: a case, 6 no attempt of ours';
CREATE INDEX callback_inbox_new ON callback_inbox (look_at) WHERE state = 0;
-- Messages that name the carrier's id only are matched by it.
CREATE INDEX callback_inbox_txn ON callback_inbox (carrier_txn_id) WHERE subscription_id IS NOT NULL;
CREATE INDEX attempt_open_txn ON attempt_open (carrier_txn_id) WHERE carrier_txn_id IS NOT NULL;
