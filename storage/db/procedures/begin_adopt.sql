-- Makes durable that money which is recorded as not moved was moved, as evidence says: an attempt of operation adopt that
-- points at the one which took it, and the case. No byte of it is ever sent; it blocks the charge until people settle it.
-- Of a charge that is not the subscription's current one its own row is made. Returns a verdict (storage/src/verdict.rs): 3
-- when the rows say otherwise by now, so that whoever asks reads them again.
CREATE OR REPLACE FUNCTION begin_adopt(
    p_slot int, p_incarnation bigint, p_epoch int, p_business_at_ms bigint, p_id bigint, p_rev int, p_period int,
    p_attempt_no int2, p_parent_no int2, p_amount bigint, p_currency int2, p_digest_hi bigint, p_digest_lo bigint,
    p_rule int2, p_book_version int, p_due bigint, p_collected bigint, p_round int2, p_step int2, p_state int2,
    p_inbox_id bigint, p_what text
) RETURNS int2
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_kept    attempt_intent;
    v_current boolean;
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    PERFORM FROM shard_owner WHERE shard = (p_id >> 32)::int AND slot = p_slot;
    IF NOT FOUND THEN
        RETURN 6;
    END IF;
    PERFORM FROM shard_owner WHERE shard = (p_id >> 32)::int AND held = 1;
    IF FOUND THEN
        RETURN 13;
    END IF;
    SELECT * INTO v_kept FROM attempt_intent
     WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_attempt_no;
    IF FOUND THEN
        RETURN CASE WHEN v_kept.digest_hi <> p_digest_hi OR v_kept.digest_lo <> p_digest_lo THEN 2
                    WHEN v_kept.incarnation = p_incarnation THEN 12 ELSE 1 END;
    END IF;
    PERFORM FROM lost_attempt WHERE subscription_id = p_id AND period = p_period AND state < 3;
    IF FOUND THEN
        RETURN 14;
    END IF;
    SELECT period = p_period INTO v_current FROM subscription
     WHERE id = p_id AND rev = p_rev AND flags = 0
       AND (period <> p_period OR attempt_no = p_attempt_no - 1 AND open = 0 AND reserved_no IS NULL);
    IF NOT FOUND THEN
        RETURN 3;
    END IF;
    PERFORM FROM period_partition WHERE low_period <= p_period AND p_period < high_period;
    IF NOT FOUND THEN
        RETURN 7;
    END IF;
    PERFORM FROM attempt_outcome
     WHERE subscription_id = p_id AND period = p_period AND attempt_no = p_parent_no AND class IN (6, 7, 8);
    IF NOT FOUND THEN
        RETURN 3;
    END IF;
    PERFORM FROM attempt_intent i
      WHERE i.subscription_id = p_id AND i.period = p_period
        AND (i.attempt_no >= p_attempt_no OR i.op = 6 AND i.parent_no = p_parent_no
             OR NOT EXISTS (SELECT FROM attempt_outcome o WHERE o.subscription_id = p_id AND o.period = p_period
                                                            AND o.attempt_no = i.attempt_no));
    IF FOUND THEN
        RETURN 3;
    END IF;
    IF NOT v_current THEN
        INSERT INTO charge_aside (subscription_id, due_minor, collected_minor, period, attempt_no, round, step, open, state,
                                  currency)
        VALUES (p_id, p_due, p_collected, p_period, p_attempt_no - 1, p_round, p_step, 0, p_state, p_currency)
            ON CONFLICT DO NOTHING;
        PERFORM FROM charge_aside
          WHERE subscription_id = p_id AND period = p_period AND open = 0 AND attempt_no = p_attempt_no - 1 FOR UPDATE;
        IF NOT FOUND THEN
            RETURN 3;
        END IF;
    END IF;
    INSERT INTO attempt_intent (
        subscription_id, amount_minor, digest_hi, digest_lo, not_before_ms, not_after_ms, incarnation, intent_at,
        business_at_ms, period, book_version, attempt_no, op, round, step, currency, rule_id, parent_no)
    VALUES (p_id, p_amount, p_digest_hi, p_digest_lo, p_business_at_ms, p_business_at_ms, p_incarnation, now(),
        p_business_at_ms, p_period, p_book_version, p_attempt_no, 6, p_round, p_step, p_currency, p_rule, p_parent_no);
    INSERT INTO case_file (subscription_id, period, attempt_no, kind, what)
    VALUES (p_id, p_period, p_parent_no, 'conflict', left(p_what, 1000));
    DELETE FROM shard_inbox WHERE shard = (p_id >> 32)::int AND id = p_inbox_id;
    RETURN 0;
END $$;
