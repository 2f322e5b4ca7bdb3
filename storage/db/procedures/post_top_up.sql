-- A merchant's notice that a subscriber topped up, for the owner of the subscription's shard. A notice with an id counts
-- once. Returns whether it was new; NULL when there is no such subscription.
CREATE OR REPLACE FUNCTION post_top_up(p_id bigint, p_notice text, p_payload bytea) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM FROM subscription WHERE id = p_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF p_notice IS NOT NULL THEN
        DELETE FROM top_up_notice WHERE subscription_id = p_id AND at < now() - interval '30 days';
        INSERT INTO top_up_notice (subscription_id, notice) VALUES (p_id, p_notice) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
    END IF;
    INSERT INTO shard_inbox (shard, kind, subscription_id, payload) VALUES ((p_id >> 32)::int, 6, p_id, p_payload);
    RETURN true;
END $$;
