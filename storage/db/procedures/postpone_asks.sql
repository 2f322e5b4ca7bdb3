-- When these unknown attempts are looked at next, milliseconds from now on. Those of shards that are not ours, and those
-- that are not unknown any more, stay as they are.
CREATE OR REPLACE FUNCTION postpone_asks(
    p_slot int, p_incarnation bigint, p_epoch int, p_ids bigint[], p_periods int[], p_attempt_nos int2[], p_next_ms bigint[]
) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    UPDATE attempt_open AS o SET next_ask_at = now() + a.next_ms * interval '1 millisecond'
      FROM unnest(p_ids, p_periods, p_attempt_nos, p_next_ms) AS a (id, period, attempt_no, next_ms)
     WHERE o.subscription_id = a.id AND o.period = a.period AND o.attempt_no = a.attempt_no AND o.kind = 2
       AND EXISTS (SELECT FROM shard_owner w WHERE w.shard = (a.id >> 32)::int AND w.slot = p_slot);
END $$;
