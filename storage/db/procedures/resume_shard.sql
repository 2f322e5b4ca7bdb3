-- Lets a shard charge again, if its list is in place: 0 not yet, 1 it charges again, 2 the deadline passed (or somebody said
-- not to wait) and not all spools are here: the owner lists every charge that was due, and asks again with p_doubt_until_ms.
CREATE OR REPLACE FUNCTION resume_shard(
    p_slot int, p_incarnation bigint, p_epoch int, p_shard int, p_doubt_until_ms bigint
) RETURNS int2
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_missing bigint;
    v_late    bigint;
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    PERFORM FROM shard_owner WHERE shard = p_shard AND slot = p_slot AND held = 1 FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 1;
    END IF;
    SELECT count(*) FILTER (WHERE waits), count(*) FILTER (WHERE waits AND (q.forced_at IS NOT NULL OR q.deadline_at <= now()))
      INTO v_missing, v_late
      FROM shard_quarantine sq
      JOIN quarantine q ON q.id = sq.quarantine_id
     CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM quarantine_spool p
                                         WHERE p.quarantine_id = q.id AND p.handed_in_at IS NULL) AS waits) AS w
     WHERE sq.shard = p_shard AND sq.resumed_at IS NULL;
    IF v_missing > v_late THEN
        RETURN 0;
    ELSIF v_missing > 0 AND p_doubt_until_ms IS NULL THEN
        RETURN 2;
    END IF;
    IF v_missing > 0 THEN
        -- What is open since the window may have been settled and followed by the next attempt, which only a missing spool
        -- knows: it is not repeated, and what follows it is asked about.
        INSERT INTO lost_attempt (subscription_id, amount_minor, digest_hi, digest_lo, not_before_ms, not_after_ms,
            business_at_ms, incarnation, intent_at, period, book_version, attempt_no, op, round, step, currency, rule_id,
            parent_no, state, chain)
        SELECT i.subscription_id, i.amount_minor, i.digest_hi, i.digest_lo, i.not_before_ms, i.not_after_ms,
               i.business_at_ms, i.incarnation, i.intent_at, i.period, i.book_version, i.attempt_no, i.op, i.round, i.step,
               i.currency, i.rule_id, i.parent_no, 2, true
          FROM attempt_intent i
         WHERE i.subscription_id BETWEEN p_shard::bigint << 32 AND (p_shard::bigint << 32) + 4294967295
           AND i.intent_at >= (SELECT min(q.window_from) FROM shard_quarantine sq JOIN quarantine q ON q.id = sq.quarantine_id
                                WHERE sq.shard = p_shard AND sq.resumed_at IS NULL)
           AND i.amount_minor > 0
           AND NOT EXISTS (SELECT FROM attempt_outcome o
                            WHERE o.subscription_id = i.subscription_id AND o.period = i.period AND o.attempt_no = i.attempt_no)
            ON CONFLICT (subscription_id, period, attempt_no) DO UPDATE SET state = 2, chain = true
             WHERE lost_attempt.state = 1;
    END IF;
    UPDATE shard_quarantine
       SET resumed_at = now(), how = CASE WHEN v_missing > 0 THEN 'all' ELSE 'listed' END,
           doubt_until_ms = CASE WHEN v_missing > 0 THEN p_doubt_until_ms END,
           inbox_until = CASE WHEN v_missing > 0 THEN (SELECT coalesce(max(i.id), 0) FROM shard_inbox i WHERE i.shard = p_shard) END,
           listed = (SELECT count(*) FROM lost_attempt l
                      WHERE l.subscription_id BETWEEN p_shard::bigint << 32 AND (p_shard::bigint << 32) + 4294967295)
     WHERE shard = p_shard AND resumed_at IS NULL;
    UPDATE shard_owner
       SET held = CASE WHEN EXISTS (SELECT FROM lost_attempt l
                                     WHERE l.subscription_id BETWEEN p_shard::bigint << 32 AND (p_shard::bigint << 32) + 4294967295
                                       AND l.state < 3) THEN 2 ELSE 0 END
     WHERE shard = p_shard;
    RETURN 1;
END $$;
