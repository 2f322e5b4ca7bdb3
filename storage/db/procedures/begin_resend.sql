-- Before the same request is sent again: from now on a write under its key may be on its way, whoever dies. Only for the
-- shard's owner, and only while nothing else was asked meanwhile.
CREATE OR REPLACE FUNCTION begin_resend(
    p_slot int, p_incarnation bigint, p_epoch int, p_id bigint, p_period int, p_attempt_no int2, p_asks int2
) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    UPDATE attempt_open SET last_write_at = now(), last_writer = p_incarnation, asks = asks + 1
     WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no AND kind = 2 AND asks = p_asks
       AND EXISTS (SELECT FROM shard_owner WHERE shard = (p_id >> 32)::int AND slot = p_slot AND held <> 1)
       -- After a failover: a later attempt of the charge may have been sent, so this one was settled once; or nobody knows
       -- whether it was sent at all. It is asked about, not repeated.
       AND NOT EXISTS (SELECT FROM lost_attempt
                        WHERE subscription_id = p_id AND period = p_period
                          AND (attempt_no > p_attempt_no OR attempt_no = p_attempt_no AND chain));
    RETURN FOUND;
END $$;
