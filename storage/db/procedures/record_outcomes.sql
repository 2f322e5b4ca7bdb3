-- Records what became of a batch, everything in one commit: outcomes, open attempts, notes, charges put aside,
-- the subscriptions' progress, transfers, balances, grants, events, consumed inbox rows. Returns NULL when every
-- row passed, else one verdict per row; everything is computed from rows with verdict 0 only.
--
-- One row per subscription. `p_kinds`: 1 a final outcome, 2 an attempt that is now open (accepted, unknown,
-- in review), 3 a note (nothing was sent). The progress columns are the subscription as it shall be.
CREATE OR REPLACE FUNCTION record_outcomes(
    p_slot int, p_incarnation bigint, p_epoch int, p_stripe int2, p_business_at_ms bigint, p_business_date int,
    p_shards int[],
    -- the attempt, or the charge that the note is about
    p_ids bigint[], p_revs int[], p_kinds int2[], p_periods int[], p_attempt_nos int2[], p_classes int2[],
    p_reasons int2[], p_moveds bigint[], p_collecteds bigint[], p_charge_states int2[], p_rules int2[],
    p_latencies int[], p_codes text[], p_txn_ids text[], p_untils bigint[],
    -- the subscription afterwards
    n_states int2[], n_periods int[], n_dues bigint[], n_collecteds bigint[], n_attempt_nos int2[],
    n_rounds int2[], n_steps int2[], n_opens int2[], n_deferrals int2[], n_paid_untils bigint[],
    n_state_untils bigint[], n_retry_ats bigint[], n_next_ats bigint[], n_next_kinds int2[], n_flags int[],
    -- under which version of the book its charge is decided
    n_book_versions int[],
    -- requests that counted
    n_tries int2[],
    -- grants: until; 0 for none, -1 for good
    g_untils bigint[],
    -- events: 0 for none
    e_events int2[], e_merchants int[],
    -- transfers, sparse: place of their row above
    t_places int[], t_legs int2[], t_debits int[], t_credits int[], t_amounts bigint[], t_assets int2[],
    -- charges with rows of their own as they shall be, sparse
    a_places int[], a_dues bigint[], a_collecteds bigint[], a_attempt_nos int2[], a_rounds int2[],
    a_steps int2[], a_opens int2[], a_states int2[], a_currencies int2[],
    a_periods int[], a_next_ats bigint[], a_next_kinds int2[], a_expires bigint[],
    -- inbox rows that this commit consumes
    i_shards int[], i_ids bigint[],
    -- what carriers have set aside: the attempt (0 for none), how much, until when
    n_reserved_nos int2[], n_reserved_minors bigint[], n_reserved_untils bigint[],
    -- caps, sparse: attempts that give back what they had reserved, less what was collected
    u_places int[], u_subscribers bigint[], u_attempt_nos int2[], u_kept bigint[], u_requests int[],
    -- refunds, sparse: their charge's own row afterwards
    r_places int[], r_refundeds bigint[], r_attempt_nos int2[], r_opens int2[], r_next_ats bigint[], r_next_kinds int2[],
    -- what is rarer still: see record_more; NULL for nothing
    p_more jsonb
) RETURNS int2[]
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    verdicts int2[] := NULL;
    expected int := cardinality(p_ids);
    updated  int;
    v_date   int;
BEGIN
    PERFORM check_fence(p_slot, p_incarnation, p_epoch);
    LOOP
        IF verdicts IS NULL AND (SELECT count(*) FROM shard_owner WHERE shard = ANY (p_shards) AND slot = p_slot)
                                <> cardinality(p_shards) THEN
            verdicts := record_verdicts(p_slot, p_ids, p_revs, p_kinds, p_periods, p_attempt_nos, p_classes, p_moveds);
            expected := (SELECT count(*) FROM unnest(verdicts) AS v WHERE v = 0);
        END IF;
        BEGIN
            UPDATE subscription AS s
               SET rev = s.rev + 1, state = a.state, period = a.period, due_minor = a.due,
                   collected_minor = a.collected, attempt_no = a.attempt_no, round = a.round, step = a.step,
                   open = a.open, deferrals = a.deferrals, paid_until_ms = a.paid_until,
                   state_until_ms = a.state_until, retry_at_ms = a.retry_at, next_at_ms = a.next_at,
                   next_kind = a.next_kind, flags = a.flags, book_version = a.book_version, tries = a.tries,
                   reserved_no = nullif(a.reserved_no, 0), reserved_minor = a.reserved_minor,
                   reserved_until_ms = a.reserved_until
              FROM unnest(p_ids, p_revs, n_states, n_periods, n_dues, n_collecteds, n_attempt_nos, n_rounds,
                          n_steps, n_opens, n_deferrals, n_paid_untils, n_state_untils, n_retry_ats, n_next_ats,
                          n_next_kinds, n_flags, n_book_versions, n_tries, n_reserved_nos, n_reserved_minors,
                          n_reserved_untils)
                   WITH ORDINALITY AS a (id, rev, state, period, due, collected, attempt_no, round,
                          step, open, deferrals, paid_until, state_until, retry_at, next_at,
                          next_kind, flags, book_version, tries, reserved_no, reserved_minor,
                          reserved_until, place)
             WHERE s.id = a.id AND s.rev = a.rev AND (verdicts IS NULL OR verdicts[a.place] = 0);
            GET DIAGNOSTICS updated = ROW_COUNT;
            IF updated <> expected THEN
                RAISE EXCEPTION '% of % subscriptions passed', updated, expected USING ERRCODE = 'TB001';
            END IF;

            INSERT INTO attempt_outcome (
                subscription_id, moved_minor, collected_after, incarnation, decided_at, business_at_ms, period,
                latency_us, attempt_no, class, reason, charge_state, rule_id, carrier_code, carrier_txn_id)
            SELECT a.id, a.moved, a.collected, p_incarnation, now(), p_business_at_ms, a.period,
                   a.latency, a.attempt_no, a.class, a.reason, a.charge_state, a.rule, a.code, a.txn_id
              FROM unnest(p_ids, p_kinds, p_periods, p_attempt_nos, p_classes, p_reasons, p_moveds, p_collecteds,
                          p_charge_states, p_rules, p_latencies, p_codes, p_txn_ids)
                   WITH ORDINALITY AS a (id, kind, period, attempt_no, class, reason, moved, collected,
                          charge_state, rule, latency, code, txn_id, place)
             WHERE a.kind = 1 AND (verdicts IS NULL OR verdicts[a.place] = 0);

            IF cardinality(t_places) > 0 THEN
                v_date := open_date(p_business_date);
                INSERT INTO transfer (source_id, amount, period, debit_account, credit_account, business_date,
                                      attempt_no, leg, asset)
                SELECT p_ids[t.place], t.amount, p_periods[t.place], t.debit, t.credit, v_date,
                       p_attempt_nos[t.place], t.leg, t.asset
                  FROM unnest(t_places, t_legs, t_debits, t_credits, t_amounts, t_assets)
                       AS t (place, leg, debit, credit, amount, asset)
                 WHERE verdicts IS NULL OR verdicts[t.place] = 0;
                INSERT INTO account_balance AS b (account_id, stripe, posted)
                SELECT m.account, p_stripe, sum(m.amount)
                  FROM unnest(t_places || t_places, t_debits || t_credits,
                              t_amounts || ARRAY(SELECT -x FROM unnest(t_amounts) AS x))
                       AS m (place, account, amount)
                 WHERE verdicts IS NULL OR verdicts[m.place] = 0
                 GROUP BY m.account
                    ON CONFLICT (account_id, stripe) DO UPDATE SET posted = b.posted + EXCLUDED.posted;
            END IF;

            INSERT INTO entitlement_grant (subscription_id, from_ms, until_ms, period, attempt_no)
            SELECT a.id, p_business_at_ms, nullif(a.until_ms, -1), a.period, a.attempt_no
              FROM unnest(p_ids, p_periods, p_attempt_nos, g_untils)
                   WITH ORDINALITY AS a (id, period, attempt_no, until_ms, place)
             WHERE a.until_ms <> 0 AND (verdicts IS NULL OR verdicts[a.place] = 0);

            INSERT INTO outbox (business_at_ms, merchant_no, subscription_ids, amounts, periods, revs, events)
            SELECT p_business_at_ms, a.merchant, array_agg(a.id), array_agg(a.moved), array_agg(a.period),
                   array_agg(a.rev + 1), array_agg(a.event)
              FROM unnest(p_ids, p_revs, p_periods, p_moveds, e_events, e_merchants)
                   WITH ORDINALITY AS a (id, rev, period, moved, event, merchant, place)
             WHERE a.event <> 0 AND (verdicts IS NULL OR verdicts[a.place] = 0)
             GROUP BY a.merchant;

            -- The rest is rare: attempts that opened or closed, notes, asides, inbox rows.
            IF 2 = ANY (p_kinds) OR 3 = ANY (p_kinds) OR cardinality(a_places) > 0 THEN
                PERFORM record_rare(p_business_at_ms, verdicts, p_ids, p_revs, p_kinds, p_periods, p_attempt_nos,
                    p_classes, p_reasons, p_charge_states, p_rules, p_codes, p_txn_ids, p_untils,
                    a_places, a_dues, a_collecteds, a_attempt_nos, a_rounds, a_steps, a_opens, a_states, a_currencies,
                    a_periods, a_next_ats, a_next_kinds, a_expires);
            END IF;
            IF p_more IS NOT NULL THEN
                PERFORM record_more(p_business_at_ms, verdicts, p_ids, p_revs, p_periods, p_attempt_nos, p_rules,
                    e_merchants, p_more);
            END IF;
            IF cardinality(u_places) > 0 THEN
                PERFORM give_back_usage(p_ids, p_periods, verdicts, u_places, u_subscribers, u_attempt_nos, u_kept, u_requests);
            END IF;
            IF cardinality(r_places) > 0 THEN
                UPDATE charge_aside AS x
                   SET refunded_minor = r.refunded, attempt_no = r.attempt_no, open = r.open, next_at_ms = r.next_at,
                       next_kind = r.next_kind, rev = x.rev + 1
                  FROM unnest(r_places, r_refundeds, r_attempt_nos, r_opens, r_next_ats, r_next_kinds)
                       AS r (place, refunded, attempt_no, open, next_at, next_kind)
                 WHERE x.subscription_id = p_ids[r.place] AND x.period = p_periods[r.place]
                   AND (verdicts IS NULL OR verdicts[r.place] = 0);
            END IF;
            IF cardinality(i_ids) > 0 THEN
                DELETE FROM attempt_open o
                 USING unnest(p_ids, p_kinds, p_periods, p_attempt_nos)
                       WITH ORDINALITY AS a (id, kind, period, attempt_no, place)
                 WHERE a.kind = 1 AND (verdicts IS NULL OR verdicts[a.place] = 0)
                   AND o.subscription_id = a.id AND o.period = a.period AND o.attempt_no = a.attempt_no;
                -- Of a row that changed meanwhile, or is not ours, the wish stays: who decides again may die before.
                DELETE FROM shard_inbox b
                 USING unnest(i_shards, i_ids) AS i (shard, id)
                 WHERE b.shard = i.shard AND b.id = i.id
                   -- What was not applied because the row changed or moved away is still wanted.
                   AND (verdicts IS NULL
                        OR NOT EXISTS (SELECT FROM unnest(p_ids, verdicts) AS v (id, verdict)
                                        WHERE v.id = b.subscription_id AND v.verdict IN (3, 6)));
            END IF;
            RETURN verdicts;
        EXCEPTION
            WHEN unique_violation OR check_violation OR SQLSTATE 'TB001' THEN
                IF verdicts IS NOT NULL THEN
                    RAISE;  -- a broken invariant of the batch: the caller halves it until the poison row is alone
                END IF;
        END;
        verdicts := record_verdicts(p_slot, p_ids, p_revs, p_kinds, p_periods, p_attempt_nos, p_classes, p_moveds);
        expected := (SELECT count(*) FROM unnest(verdicts) AS v WHERE v = 0);
    END LOOP;
END $$;
