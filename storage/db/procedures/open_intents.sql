-- Intents of a shard with neither an outcome nor an open row, from the low water on, in key order after the given
-- key: what a dead worker left behind. Every one of them is UNKNOWN. failed_over: the database failed over since, so that it
-- may have been listed and sent again in commits that are lost.
CREATE OR REPLACE FUNCTION open_intents(
    p_shard int, p_after_id bigint, p_after_period int, p_after_no int2, p_limit int
) RETURNS TABLE (subscription_id bigint, period int, attempt_no int2, op int2, amount_minor bigint, currency int2,
                 round int2, step int2, not_before_ms bigint, not_after_ms bigint, incarnation bigint, book_version int,
                 parent_no int2, failed_over bool)
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT i.subscription_id, i.period, i.attempt_no, i.op, i.amount_minor, i.currency, i.round, i.step,
           i.not_before_ms, i.not_after_ms, i.incarnation, i.book_version, i.parent_no,
           EXISTS (SELECT FROM quarantine q WHERE q.found_at >= i.intent_at)
      FROM attempt_intent i
     WHERE i.intent_at >= (SELECT p.low_water FROM shard_progress p WHERE p.shard = p_shard)
       AND i.subscription_id BETWEEN p_shard::bigint << 32 AND (p_shard::bigint << 32) + 4294967295
       AND (i.subscription_id, i.period, i.attempt_no) > (p_after_id, p_after_period, p_after_no)
       AND NOT EXISTS (SELECT FROM attempt_outcome o
                        WHERE o.subscription_id = i.subscription_id AND o.period = i.period AND o.attempt_no = i.attempt_no)
       AND NOT EXISTS (SELECT FROM attempt_open o
                        WHERE o.subscription_id = i.subscription_id AND o.period = i.period AND o.attempt_no = i.attempt_no)
     ORDER BY i.subscription_id, i.period, i.attempt_no
     LIMIT p_limit
$$;
