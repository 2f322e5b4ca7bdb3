-- Nothing can have followed an attempt that was assumed and proven not to have been applied: the charge goes on.
CREATE OR REPLACE FUNCTION end_doubt(
    p_slot int, p_incarnation bigint, p_epoch int, p_id bigint, p_period int, p_attempt_no int2
) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    DELETE FROM lost_attempt
     WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no AND state = 2
       AND EXISTS (SELECT FROM shard_owner WHERE shard = (p_id >> 32)::int AND slot = p_slot);
    RETURN FOUND;
END $$;
