-- Makes the intent of a lost attempt durable again, as begin would have left it: from then on it is an intent without an
-- outcome, that is UNKNOWN. Neither STOP nor a window nor a cap refuses it: the request may have left long ago. Returns a
-- verdict: 0 it is here, 8 and it is listed or settled besides, 3 its turn has not come (the attempt before it is open, or its period is not the current one yet),
-- 6 not ours, 7 no partition, 10 not listed.
CREATE OR REPLACE FUNCTION restore_lost(
    p_slot int, p_incarnation bigint, p_epoch int, p_id bigint, p_period int, p_attempt_no int2, p_cap_day int,
    p_subscriber_id bigint, p_week int, p_month int
) RETURNS int2
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    l           lost_attempt;
    s           subscription;
    x           charge_aside;
    v_collected bigint;
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    PERFORM FROM shard_owner WHERE shard = (p_id >> 32)::int AND slot = p_slot;
    IF NOT FOUND THEN
        RETURN 6;
    END IF;
    SELECT * INTO l FROM lost_attempt
     WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no AND state < 2 FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 10;
    END IF;
    PERFORM FROM attempt_intent WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no;
    IF FOUND THEN
        UPDATE lost_attempt SET state = 1 WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no;
        PERFORM FROM attempt_outcome WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no
          UNION ALL SELECT FROM attempt_open WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no;
        RETURN CASE WHEN FOUND THEN 8 ELSE 0 END;
    END IF;
    PERFORM FROM period_partition WHERE low_period <= p_period AND p_period < high_period;
    IF NOT FOUND THEN
        RETURN 7;
    END IF;
    SELECT * INTO STRICT s FROM subscription WHERE id = p_id FOR UPDATE;
    IF l.op <> 5 AND s.period = p_period THEN
        IF s.open <> 0 OR s.attempt_no + 1 <> p_attempt_no THEN
            RETURN 3;
        END IF;
    ELSE
        SELECT coalesce(sum(o.moved_minor), 0) INTO v_collected
          FROM attempt_intent i
          JOIN attempt_outcome o ON o.subscription_id = i.subscription_id AND o.period = i.period AND o.attempt_no = i.attempt_no
         WHERE i.subscription_id = p_id AND i.period = p_period AND o.class = 5 AND i.op IN (1, 3, 6);
        SELECT * INTO x FROM charge_aside WHERE subscription_id = p_id AND period = p_period FOR UPDATE;
        IF FOUND THEN
            -- A refund whose wish was lost is not made again: the one after it does not wait for it.
            IF x.open <> 0 OR x.attempt_no + 1 > p_attempt_no OR l.op <> 5 AND x.attempt_no + 1 < p_attempt_no THEN
                RETURN 3;
            END IF;
        ELSIF p_period > s.period AND s.next_at_ms IS NOT NULL THEN
            RETURN 3;
        ELSE
            -- The subscription has passed the period, or will never come to it: the charge gets a row of its own.
            INSERT INTO charge_aside (subscription_id, due_minor, collected_minor, period, attempt_no, round, step, open, state, currency)
            VALUES (p_id, greatest(v_collected, l.amount_minor),
                    v_collected, p_period, p_attempt_no - 1, l.round, l.step, 0, CASE WHEN l.op = 5 THEN 4 ELSE 1 END, l.currency);
        END IF;
        IF l.op = 5 THEN
            UPDATE charge_aside SET refunded_minor = refunded_minor + l.amount_minor, rev = rev + 1
             WHERE subscription_id = p_id AND period = p_period;
        END IF;
    END IF;
    INSERT INTO attempt_intent (
        subscription_id, amount_minor, digest_hi, digest_lo, not_before_ms, not_after_ms, incarnation, intent_at,
        business_at_ms, period, book_version, attempt_no, op, round, step, currency, rule_id, cap_day, parent_no)
    VALUES (p_id, l.amount_minor, l.digest_hi, l.digest_lo, l.not_before_ms, l.not_after_ms,
        CASE WHEN l.follows THEN p_incarnation ELSE l.incarnation END,
        -- What is assumed of somebody is dated within its life, and before the failover was found.
        CASE WHEN l.follows THEN now()
             WHEN l.chain THEN (SELECT greatest(i.started_at, least(l.intent_at, i.fenced_at, doubt_until((p_id >> 32)::int) - interval '5 seconds'))
                                  FROM worker_incarnation i WHERE i.incarnation = l.incarnation)
             ELSE l.intent_at END,
        l.business_at_ms, p_period, l.book_version, p_attempt_no, l.op, l.round, l.step, l.currency, l.rule_id, p_cap_day,
        l.parent_no);
    IF p_cap_day <> 0 THEN
        PERFORM reserve_usage(ARRAY[l.amount_minor], ARRAY[l.currency], ARRAY[p_cap_day], NULL, ARRAY[1],
            ARRAY[p_subscriber_id], ARRAY[p_week], ARRAY[p_month]);
    END IF;
    UPDATE lost_attempt SET state = 1 WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no;
    RETURN 0;
END $$;
