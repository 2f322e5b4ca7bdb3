-- The slow path of record_outcomes: why does each row pass or not?
CREATE OR REPLACE FUNCTION record_verdicts(
    p_slot int, p_ids bigint[], p_revs int[], p_kinds int2[], p_periods int[], p_attempt_nos int2[],
    p_classes int2[], p_moveds bigint[]
) RETURNS int2[]
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT array_agg((CASE
               WHEN own.slot IS DISTINCT FROM p_slot THEN 6                            -- not_owner
               WHEN s.id IS NULL THEN 10                                               -- not_found
               WHEN a.kind <> 3 AND o.subscription_id IS NOT NULL THEN
                    CASE WHEN a.kind = 1 AND o.class = a.class AND o.moved_minor = a.moved THEN 8  -- final_same
                         ELSE 9 END                                                    -- conflict
               WHEN a.kind = 2 AND op.subscription_id IS NOT NULL AND s.rev = a.rev + 1 THEN 8
               WHEN s.rev <> a.rev THEN 3                                              -- stale_rev
               WHEN p.low_period IS NULL THEN 7                                        -- no_partition
               ELSE 0 END)::int2 ORDER BY a.place)
      FROM unnest(p_ids, p_revs, p_kinds, p_periods, p_attempt_nos, p_classes, p_moveds)
           WITH ORDINALITY AS a (id, rev, kind, period, attempt_no, class, moved, place)
      LEFT JOIN shard_owner own ON own.shard = (a.id >> 32)::int
      LEFT JOIN subscription s ON s.id = a.id
      LEFT JOIN attempt_outcome o
             ON o.subscription_id = a.id AND o.period = a.period AND o.attempt_no = a.attempt_no
      LEFT JOIN attempt_open op
             ON op.subscription_id = a.id AND op.period = a.period AND op.attempt_no = a.attempt_no
      LEFT JOIN period_partition p ON p.low_period <= a.period AND a.period < p.high_period
$$;
