-- Takes up to p_want free shards. Returns every shard that the slot has then: a claim whose answer was lost is found by the
-- next one.
CREATE OR REPLACE FUNCTION claim_shards(p_slot int, p_incarnation bigint, p_epoch int, p_want int) RETURNS SETOF int
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    RETURN QUERY SELECT o.shard FROM shard_owner o WHERE o.slot = p_slot;
    RETURN QUERY
    UPDATE shard_owner o SET slot = p_slot
      FROM (SELECT f.shard FROM shard_owner f WHERE f.slot IS NULL ORDER BY f.shard LIMIT p_want
               FOR UPDATE SKIP LOCKED) AS free
     WHERE o.shard = free.shard
    RETURNING o.shard;
END $$;
