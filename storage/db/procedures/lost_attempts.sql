-- What of a shard was lost and is not settled yet, in key order after the given key. First drops what is done with: an
-- attempt that has its row again. One that is only assumed leaves the next one in doubt: where the carrier knew it, whoever
-- begins the next one lists it; where it was proven not to have been applied (state 2 and until_us in the answer), its
-- sender may have found out too, and gone on: the owner lists the next one, if there was time for it until until_us.
CREATE OR REPLACE FUNCTION lost_attempts(
    p_slot int, p_incarnation bigint, p_epoch int, p_shard int, p_after_id bigint, p_after_period int, p_after_no int2, p_limit int
) RETURNS TABLE (subscription_id bigint, period int, attempt_no int2, op int2, amount_minor bigint, currency int2, round int2,
                 step int2, not_before_ms bigint, not_after_ms bigint, incarnation bigint, book_version int, parent_no int2,
                 business_at_ms bigint, state int2, chain bool, rule_id int2, intent_us bigint, until_us bigint)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_first bigint := p_shard::bigint << 32;
    v_last  bigint := (p_shard::bigint << 32) + 4294967295;
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    UPDATE lost_attempt l SET state = 2
     WHERE l.subscription_id BETWEEN v_first AND v_last AND l.state = 1 AND l.chain
       AND EXISTS (SELECT FROM attempt_outcome o
                    WHERE o.subscription_id = l.subscription_id AND o.period = l.period AND o.attempt_no = l.attempt_no
                      AND (o.class NOT IN (7, 8) OR may_be_followed(o.class, l.op, o.rule_id)));
    DELETE FROM lost_attempt l
     WHERE l.subscription_id BETWEEN v_first AND v_last
       AND (l.state = 1
            AND (EXISTS (SELECT FROM attempt_outcome o
                          WHERE o.subscription_id = l.subscription_id AND o.period = l.period AND o.attempt_no = l.attempt_no)
                 OR NOT l.chain AND EXISTS (SELECT FROM attempt_open o
                          WHERE o.subscription_id = l.subscription_id AND o.period = l.period AND o.attempt_no = l.attempt_no))
            -- Nothing more is tried for the charge, or it was asked about long ago.
            -- While it is open the mark says that it is not repeated.
            OR l.state = 2
            AND NOT EXISTS (SELECT FROM attempt_open o
                             WHERE o.subscription_id = l.subscription_id AND o.period = l.period AND o.attempt_no = l.attempt_no)
            AND (l.listed_at < now() - interval '1 day'
                 OR NOT EXISTS (SELECT FROM attempt_outcome o
                                 WHERE o.subscription_id = l.subscription_id AND o.period = l.period AND o.attempt_no = l.attempt_no
                                   AND may_be_followed(o.class, l.op, o.rule_id))
                    AND NOT EXISTS (SELECT FROM subscription s WHERE s.id = l.subscription_id AND s.period = l.period)
                    AND NOT EXISTS (SELECT FROM charge_aside c
                                     WHERE c.subscription_id = l.subscription_id AND c.period = l.period AND c.next_at_ms IS NOT NULL)));
    UPDATE shard_owner o SET held = 0
     WHERE o.shard = p_shard AND o.held = 2
       AND NOT EXISTS (SELECT FROM lost_attempt l WHERE l.subscription_id BETWEEN v_first AND v_last AND l.state < 3);
    RETURN QUERY
    SELECT l.subscription_id, l.period, l.attempt_no, l.op, l.amount_minor, l.currency, l.round, l.step, l.not_before_ms,
           l.not_after_ms, l.incarnation, l.book_version, l.parent_no, l.business_at_ms, l.state, l.chain, l.rule_id,
           us(l.intent_at), CASE WHEN l.state = 2 THEN coalesce(us(doubt_until(p_shard)), 0) END
      FROM lost_attempt l
     WHERE l.subscription_id BETWEEN v_first AND v_last
       AND (l.state < 2
            OR l.state = 2 AND EXISTS (SELECT FROM attempt_outcome o
                                        WHERE o.subscription_id = l.subscription_id AND o.period = l.period
                                          AND o.attempt_no = l.attempt_no AND may_be_followed(o.class, l.op, o.rule_id)))
       AND (l.subscription_id, l.period, l.attempt_no) > (p_after_id, p_after_period, p_after_no)
       AND NOT (l.state = 1 AND EXISTS (SELECT FROM attempt_open o
                 WHERE o.subscription_id = l.subscription_id AND o.period = l.period AND o.attempt_no = l.attempt_no))
     ORDER BY l.subscription_id, l.period, l.attempt_no
     LIMIT p_limit;
END $$;
