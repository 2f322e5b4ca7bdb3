-- Gives drained shards back. Locks the own worker row FOR UPDATE first: it waits for the batches in flight, and
-- later ones see that the shard is no longer theirs.
CREATE OR REPLACE FUNCTION hand_over(p_slot int, p_incarnation bigint, p_epoch int, p_shards int[]) RETURNS int
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    given int;
BEGIN
    PERFORM FROM worker WHERE slot = p_slot AND incarnation = p_incarnation AND epoch = p_epoch FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'slot % is fenced: incarnation % epoch % is not current', p_slot, p_incarnation, p_epoch
            USING ERRCODE = 'TB002';
    END IF;
    UPDATE shard_owner SET slot = NULL WHERE slot = p_slot AND shard = ANY (p_shards);
    GET DIAGNOSTICS given = ROW_COUNT;
    RETURN given;
END $$;
