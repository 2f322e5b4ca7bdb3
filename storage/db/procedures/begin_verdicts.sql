-- The slow path of begin_attempts: why does each row pass or not?
CREATE OR REPLACE FUNCTION begin_verdicts(
    p_slot int, p_incarnation bigint, p_business_at_ms bigint, p_ids bigint[], p_revs int[], p_periods int[],
    p_attempt_nos int2[], p_ops int2[], p_digest_his bigint[], p_digest_los bigint[], p_not_befores bigint[],
    p_not_afters bigint[], p_over_caps int[]
) RETURNS int2[]
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT array_agg((CASE
               WHEN o.slot IS DISTINCT FROM p_slot THEN 6                              -- not_owner
               WHEN s.id IS NULL THEN 10                                               -- not_found
               WHEN o.held = 1 THEN 13                                                 -- quarantined
               WHEN i.subscription_id IS NOT NULL THEN
                    CASE WHEN i.digest_hi <> a.digest_hi OR i.digest_lo <> a.digest_lo THEN 2  -- exists_different
                         WHEN i.incarnation = p_incarnation THEN 12                    -- exists_mine
                         ELSE 1 END                                                    -- exists_same
               WHEN o.held = 2 AND EXISTS (SELECT FROM lost_attempt l WHERE l.subscription_id = a.id AND l.period = a.period
                                              AND l.state < 3) THEN 14                 -- lost
               WHEN s.rev <> a.rev OR s.flags <> 0
                    OR s.period = a.period AND (s.open <> 0 OR s.attempt_no + 1 <> a.attempt_no)
                    OR s.period <> a.period AND NOT begin_aside(a.id, a.period, a.attempt_no) THEN 3  -- stale_rev
               WHEN a.op IN (1, 2, 3) AND (s.stop_at_ms IS NOT NULL OR s.consent_until_ms <= p_business_at_ms)
                    THEN 4                                                             -- stopped
               WHEN s.period = a.period AND a.attempt_no > 2
                    AND refund_open(a.id, a.period) THEN 15                            -- refund_open
               WHEN a.op IN (1, 2, 3) AND NOT (a.not_before <= p_business_at_ms AND p_business_at_ms < a.not_after)
                    THEN 5                                                             -- outside_window
               WHEN p.low_period IS NULL THEN 7                                        -- no_partition
               WHEN a.place = ANY (p_over_caps) THEN 11                                -- over_cap
               ELSE 0 END)::int2 ORDER BY a.place)
      FROM unnest(p_ids, p_revs, p_periods, p_attempt_nos, p_ops, p_digest_his, p_digest_los, p_not_befores, p_not_afters)
           WITH ORDINALITY AS a (id, rev, period, attempt_no, op, digest_hi, digest_lo, not_before, not_after, place)
      LEFT JOIN shard_owner o ON o.shard = (a.id >> 32)::int
      LEFT JOIN subscription s ON s.id = a.id
      LEFT JOIN attempt_intent i
             ON i.subscription_id = a.id AND i.period = a.period AND i.attempt_no = a.attempt_no
      LEFT JOIN period_partition p ON p.low_period <= a.period AND a.period < p.high_period
$$;
