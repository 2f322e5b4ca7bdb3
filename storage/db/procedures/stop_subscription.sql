-- STOP, which must work while no worker is alive: marks the subscription directly and tells the shard's owner.
-- Returns the instant of the stop in business milliseconds (the first one stays), NULL when there is none such.
CREATE OR REPLACE FUNCTION stop_subscription(p_id bigint, p_business_at_ms bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    stopped bigint;
BEGIN
    UPDATE subscription SET stop_at_ms = coalesce(stop_at_ms, p_business_at_ms) WHERE id = p_id
    RETURNING stop_at_ms INTO stopped;
    IF FOUND THEN
        INSERT INTO shard_inbox (shard, kind, subscription_id, payload) VALUES ((p_id >> 32)::int, 2, p_id, ''::bytea);
        PERFORM pg_notify('tollbook_inbox', (p_id >> 32)::text);
    END IF;
    RETURN stopped;
END $$;
