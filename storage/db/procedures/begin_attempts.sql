-- Makes a batch of intents durable, before a byte leaves. Returns NULL when every row passed, else one verdict
-- per row (see `verdict` in storage/src/verdict.rs); rows with verdict 0 are durable, the others are not.
--
-- Fast path: insert what passes the checks and compare the count with the batch. Only when it falls short, or a
-- key exists already, is the insert rolled back (the fence stays locked: it was taken before the block) and run
-- again with a verdict per row.
CREATE OR REPLACE FUNCTION begin_attempts(
    p_slot int, p_incarnation bigint, p_epoch int, p_business_at_ms bigint, p_shards int[],
    p_ids bigint[], p_revs int[], p_periods int[], p_attempt_nos int2[], p_ops int2[], p_rounds int2[],
    p_steps int2[], p_amounts bigint[], p_currencies int2[], p_digest_his bigint[], p_digest_los bigint[],
    p_not_befores bigint[], p_not_afters bigint[], p_rules int2[], p_book_versions int[],
    -- the attempt that this one is about, and the day on which its amount counts against caps; 0 for none
    p_parents int2[], p_cap_days int[],
    -- caps, sparse: place of their row above, one row per subscriber; limits of 0 are none
    c_places int[], c_subscribers bigint[], c_weeks int[], c_months int[], c_day_minors bigint[], c_week_minors bigint[],
    c_month_minors bigint[], c_day_requests int[], c_week_requests int[], c_month_requests int[]
) RETURNS int2[]
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    verdicts int2[] := NULL;
    expected int := cardinality(p_ids);
    inserted int;
    v_over   int[] := NULL;  -- places that would pass a cap
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    IF cardinality(c_places) > 0 THEN
        -- Held until the commit: what is counted here is still true then.
        PERFORM FROM subscriber_usage WHERE subscriber_id = ANY (c_subscribers)
          ORDER BY subscriber_id, scope, currency FOR UPDATE;
        v_over := over_caps(p_amounts, p_currencies, p_cap_days, c_places, c_subscribers, c_weeks, c_months, c_day_minors,
            c_week_minors, c_month_minors, c_day_requests, c_week_requests, c_month_requests);
    END IF;
    LOOP
        IF verdicts IS NULL AND (v_over IS NOT NULL OR (SELECT count(*) FROM shard_owner WHERE shard = ANY (p_shards) AND slot = p_slot AND held = 0)
                                <> cardinality(p_shards)) THEN
            verdicts := begin_verdicts(p_slot, p_incarnation, p_business_at_ms, p_ids, p_revs, p_periods,
                p_attempt_nos, p_ops, p_digest_his, p_digest_los, p_not_befores, p_not_afters, v_over);
            expected := (SELECT count(*) FROM unnest(verdicts) AS v WHERE v = 0);
        END IF;
        BEGIN
            INSERT INTO attempt_intent (
                subscription_id, amount_minor, digest_hi, digest_lo, not_before_ms, not_after_ms, incarnation,
                intent_at, business_at_ms, period, book_version, attempt_no, op, round, step, currency, rule_id,
                cap_day, parent_no)
            SELECT a.id, a.amount, a.digest_hi, a.digest_lo, a.not_before, a.not_after, p_incarnation,
                   now(), p_business_at_ms, a.period, a.book_version, a.attempt_no, a.op, a.round, a.step,
                   a.currency, a.rule, a.cap_day, a.parent
              FROM unnest(p_ids, p_revs, p_periods, p_attempt_nos, p_ops, p_rounds, p_steps, p_amounts,
                          p_currencies, p_digest_his, p_digest_los, p_not_befores, p_not_afters, p_rules,
                          p_book_versions, p_parents, p_cap_days)
                   WITH ORDINALITY AS a (id, rev, period, attempt_no, op, round, step, amount,
                          currency, digest_hi, digest_lo, not_before, not_after, rule, book_version, parent, cap_day,
                          place)
              JOIN subscription s ON s.id = a.id
             WHERE s.rev = a.rev AND s.flags = 0
               -- The attempt counter of a charge lives in one row: the subscription's while its period is current,
               -- else its own.
               AND (s.period = a.period AND s.open = 0 AND s.attempt_no + 1 = a.attempt_no
                    -- A refund of what was collected of it has its result: the third attempt is the first to follow one.
                    AND (a.attempt_no < 3 OR NOT refund_open(a.id, a.period))
                    OR s.period <> a.period AND begin_aside(a.id, a.period, a.attempt_no))
               AND (a.op NOT IN (1, 2, 3)
                    OR s.stop_at_ms IS NULL AND (s.consent_until_ms IS NULL OR p_business_at_ms < s.consent_until_ms)
                   AND a.not_before <= p_business_at_ms AND p_business_at_ms < a.not_after)
               AND (verdicts IS NULL OR verdicts[a.place] = 0);
            GET DIAGNOSTICS inserted = ROW_COUNT;
            IF inserted <> expected THEN
                RAISE EXCEPTION '% of % intents passed', inserted, expected USING ERRCODE = 'TB001';
            END IF;
            IF cardinality(c_places) > 0 THEN
                PERFORM reserve_usage(p_amounts, p_currencies, p_cap_days, verdicts, c_places, c_subscribers, c_weeks,
                    c_months);
            END IF;
            RETURN verdicts;
        EXCEPTION
            -- check_violation is what a missing partition raises
            WHEN unique_violation OR check_violation OR SQLSTATE 'TB001' THEN
                IF verdicts IS NOT NULL THEN
                    RAISE;  -- a broken invariant of the batch: the caller aborts it and sends nothing
                END IF;
        END;
        verdicts := begin_verdicts(p_slot, p_incarnation, p_business_at_ms, p_ids, p_revs, p_periods,
            p_attempt_nos, p_ops, p_digest_his, p_digest_los, p_not_befores, p_not_afters, v_over);
        expected := (SELECT count(*) FROM unnest(verdicts) AS v WHERE v = 0);
    END LOOP;
END $$;
