-- Money under bounds: what one subscriber may be charged, consent that ends, attempts that point at another one (refunds,
-- two phases), and what a carrier has set aside.

-- ------------------------------------------------------------------ caps
CREATE TABLE subscriber_usage (
    subscriber_id  bigint NOT NULL,
    day_minor      bigint NOT NULL CHECK (day_minor >= 0),
    week_minor     bigint NOT NULL CHECK (week_minor >= 0),
    month_minor    bigint NOT NULL CHECK (month_minor >= 0),
    day            int  NOT NULL,
    week           int  NOT NULL,
    month          int  NOT NULL,
    day_requests   int  NOT NULL CHECK (day_requests >= 0),
    week_requests  int  NOT NULL CHECK (week_requests >= 0),
    month_requests int  NOT NULL CHECK (month_requests >= 0),
    scope          int2 NOT NULL DEFAULT 1,
    currency       int2 NOT NULL,
    PRIMARY KEY (subscriber_id, scope, currency)
) WITH (fillfactor = 50);
COMMENT ON TABLE subscriber_usage IS 'only where caps exist: what is collected, on its way or unknown, over all plans of a subscriber (scope 1). Days count from 2000-01-01 in its own zone: the day, the Monday of its week, the first of its month; they never move back';

ALTER TABLE subscription
    ADD consent_until_ms  bigint,
    ADD reserved_until_ms bigint,
    ADD reserved_minor    bigint,
    ADD reserved_no       int2,
    ADD CHECK ((reserved_no IS NULL) = (reserved_minor IS NULL) AND (reserved_no IS NULL) = (reserved_until_ms IS NULL));
COMMENT ON COLUMN subscription.consent_until_ms IS 'from then on nobody has agreed any more: the same as a stop at that instant';

-- ------------------------------------------------------------------ attempts
ALTER TABLE attempt_intent
    ADD cap_day   int  NOT NULL DEFAULT 0,
    ADD parent_no int2 NOT NULL DEFAULT 0;
COMMENT ON COLUMN attempt_intent.cap_day IS 'the local day on which its amount was reserved in subscriber_usage; 0 where no caps are';
COMMENT ON COLUMN attempt_intent.parent_no IS 'the attempt that a confirm, a cancel or a refund is about; 0 for none';

-- Their signatures changed.
DROP FUNCTION IF EXISTS begin_attempts;
DROP FUNCTION IF EXISTS begin_verdicts;
DROP FUNCTION IF EXISTS record_outcomes;
DROP FUNCTION IF EXISTS record_rare;
DROP FUNCTION IF EXISTS open_intents;
