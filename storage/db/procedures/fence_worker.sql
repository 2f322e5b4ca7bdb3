-- Fences a worker whose lease was seen unchanged for the whole TTL on the observer's own clock: raises its epoch
-- and frees its shards, unless it renewed in the meantime. Also how a worker leaves (with its own renewals).
CREATE OR REPLACE FUNCTION fence_worker(p_slot int, p_incarnation bigint, p_epoch int, p_renewals bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM FROM worker_lease
     WHERE slot = p_slot AND incarnation = p_incarnation AND epoch = p_epoch
       AND (p_renewals IS NULL OR renewals = p_renewals)
       FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Waits for the batches in flight: they hold the row FOR SHARE.
    UPDATE worker SET epoch = epoch + 1, incarnation = 0
     WHERE slot = p_slot AND incarnation = p_incarnation AND epoch = p_epoch;
    UPDATE worker_lease SET epoch = epoch + 1, incarnation = 0 WHERE slot = p_slot;
    UPDATE shard_owner SET slot = NULL WHERE slot = p_slot;
    UPDATE worker_incarnation SET fenced_at = now() WHERE incarnation = p_incarnation;
    RETURN true;
END $$;
