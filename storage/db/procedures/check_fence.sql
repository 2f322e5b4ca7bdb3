-- The fence: only the current incarnation and epoch of a slot may write. Locks the worker row FOR SHARE, so that
-- whoever fences or hands over (FOR UPDATE) waits for the batches in flight. Raises TB002 when stale: the worker
-- must drop everything.
CREATE OR REPLACE FUNCTION check_fence(p_slot int, p_incarnation bigint, p_epoch int) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM FROM worker
     WHERE slot = p_slot AND incarnation = p_incarnation AND epoch = p_epoch
       FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'slot % is fenced: incarnation % epoch % is not current', p_slot, p_incarnation, p_epoch
            USING ERRCODE = 'TB002';
    END IF;
END $$;
