-- Notes that every intent of these shards before p_low_water_us (microseconds of the database's clock) has its outcome or its
-- open row, where they are this worker's: what their next owner began is not known here. Never goes back. Returns the
-- database's clock.
CREATE OR REPLACE FUNCTION set_low_water(p_slot int, p_incarnation bigint, p_epoch int, p_shards int[], p_low_water_us bigint)
RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    IF p_low_water_us IS NOT NULL THEN
        UPDATE shard_progress p
           SET low_water = greatest(p.low_water, timestamptz 'epoch' + p_low_water_us * interval '1 microsecond')
          FROM shard_owner o
         WHERE p.shard = ANY (p_shards) AND o.shard = p.shard AND o.slot = p_slot;
    END IF;
    RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
END $$;
