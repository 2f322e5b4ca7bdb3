-- The life of a subscription beyond one charge: counters of a day, the last top-up notice, moved anchors, charges with
-- rows of their own that are tried again, ranges of periods that were passed over.

ALTER TABLE subscription
    ADD notice_at_ms bigint,
    ADD anchor_done  int  NOT NULL DEFAULT 0,
    ADD tries        int2 NOT NULL DEFAULT 0,
    ADD try_day      int2 NOT NULL DEFAULT 0,
    ADD day_tries    int2 NOT NULL DEFAULT 0;
COMMENT ON COLUMN subscription.tries IS 'requests of this charge that counted; day_tries of them on the local day try_day';
COMMENT ON COLUMN subscription.anchor_done IS 'periods that were counted under earlier anchors';
ALTER TABLE charge_note ADD before_period int;
COMMENT ON COLUMN charge_note.before_period IS 'the note is about a range: from period up to this one, without it';
ALTER TABLE entitlement_grant ADD variant int2 NOT NULL DEFAULT 0;
COMMENT ON COLUMN entitlement_grant.variant IS 'what was bought: 0 everything, else the step of the ladder';

-- Small: only rows that fire. The filler reads it shard by shard.
CREATE INDEX charge_aside_fires ON charge_aside (subscription_id) WHERE next_at_ms IS NOT NULL;
COMMENT ON TABLE charge_aside IS 'charges that left the subscription''s row unfinished: blocked by an open attempt, or in arrears';

CREATE TABLE top_up_notice (
    subscription_id bigint NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    notice          text NOT NULL CHECK (length(notice) BETWEEN 1 AND 64),
    PRIMARY KEY (subscription_id, notice)
);
COMMENT ON TABLE top_up_notice IS 'ids of notices that were taken, so that none counts twice; kept for 30 days';

-- Their signatures changed.
DROP FUNCTION IF EXISTS record_outcomes;
DROP FUNCTION IF EXISTS record_rare;
DROP FUNCTION IF EXISTS insert_subscriptions;
