-- Until when somebody has agreed (NULL: without end), which must hold while no worker is alive: marks the subscription
-- directly and tells the shard's owner. Returns false when it is stopped or over, NULL when there is none such.
CREATE OR REPLACE FUNCTION set_consent(p_id bigint, p_until_ms bigint) RETURNS bool
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE subscription SET consent_until_ms = p_until_ms
     WHERE id = p_id AND stop_at_ms IS NULL AND state NOT IN (9, 10);
    IF FOUND THEN
        INSERT INTO shard_inbox (shard, kind, subscription_id, payload) VALUES ((p_id >> 32)::int, 22, p_id, ''::bytea);
        RETURN true;
    END IF;
    PERFORM FROM subscription WHERE id = p_id;
    RETURN CASE WHEN FOUND THEN false END;
END $$;
