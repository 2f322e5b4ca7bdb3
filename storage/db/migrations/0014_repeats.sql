-- A failover may lose the repeat of a request and the listing before it, and the attempt that followed one that did not
-- leave: whoever reads what is left knows since when.

ALTER TABLE lost_attempt ADD follows bool NOT NULL DEFAULT false;
COMMENT ON COLUMN lost_attempt.follows IS 'assumed because the attempt before it was: intent_at is the earliest that it may have had, and its intent is made when that one is settled';
DROP FUNCTION IF EXISTS open_intents;
DROP FUNCTION IF EXISTS due_asks;
DROP FUNCTION IF EXISTS lost_attempts;
