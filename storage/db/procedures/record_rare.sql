-- The rare parts of record_outcomes: attempts that are now open, notes, charges with rows of their own.
CREATE OR REPLACE FUNCTION record_rare(
    p_business_at_ms bigint, verdicts int2[], p_ids bigint[], p_revs int[], p_kinds int2[], p_periods int[],
    p_attempt_nos int2[], p_classes int2[], p_reasons int2[], p_charge_states int2[], p_rules int2[],
    p_codes text[], p_txn_ids text[], p_untils bigint[],
    a_places int[], a_dues bigint[], a_collecteds bigint[], a_attempt_nos int2[], a_rounds int2[],
    a_steps int2[], a_opens int2[], a_states int2[], a_currencies int2[], a_periods int[],
    a_next_ats bigint[], a_next_kinds int2[], a_expires bigint[]
) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    -- An accepted attempt whose deadline passed becomes unknown in place.
    INSERT INTO attempt_open AS o (subscription_id, amount_minor, deadline_at_ms, period, attempt_no, kind, reason,
                                   rule_id, currency, carrier_code, carrier_txn_id)
    SELECT a.id, i.amount_minor, a.until_ms, a.period, a.attempt_no, a.class - 1, a.reason, a.rule, i.currency, a.code, a.txn_id
      FROM unnest(p_ids, p_kinds, p_periods, p_attempt_nos, p_classes, p_reasons, p_rules, p_codes, p_txn_ids, p_untils)
           WITH ORDINALITY AS a (id, kind, period, attempt_no, class, reason, rule, code, txn_id, until_ms, place)
      JOIN attempt_intent i
        ON i.subscription_id = a.id AND i.period = a.period AND i.attempt_no = a.attempt_no
     WHERE a.kind = 2 AND (verdicts IS NULL OR verdicts[a.place] = 0)
        ON CONFLICT (subscription_id, period, attempt_no) DO UPDATE
       SET kind = EXCLUDED.kind, deadline_at_ms = NULL,
           -- With people it stays for the reason that brought it there.
           reason = CASE WHEN o.kind = 3 THEN o.reason ELSE EXCLUDED.reason END,
           rule_id = CASE WHEN o.kind = 3 THEN o.rule_id ELSE EXCLUDED.rule_id END;

    INSERT INTO charge_note (subscription_id, until_ms, business_at_ms, period, rev, kind, charge_state, rule_id)
    SELECT a.id, a.until_ms, p_business_at_ms, a.period, a.rev, a.note, a.charge_state, a.rule
      FROM unnest(p_ids, p_revs, p_kinds, p_periods, p_reasons, p_charge_states, p_rules, p_untils)
           WITH ORDINALITY AS a (id, rev, kind, period, note, charge_state, rule, until_ms, place)
     WHERE a.kind = 3 AND (verdicts IS NULL OR verdicts[a.place] = 0);

    INSERT INTO charge_aside AS c (subscription_id, due_minor, collected_minor, period, attempt_no, round, step, open,
                                   state, currency, next_at_ms, next_kind, expires_at_ms)
    SELECT p_ids[a.place], a.due, a.collected, a.period, a.attempt_no, a.round, a.step, a.open, a.state, a.currency,
           a.next_at, a.next_kind, a.expires
      FROM unnest(a_places, a_dues, a_collecteds, a_attempt_nos, a_rounds, a_steps, a_opens, a_states, a_currencies,
                  a_periods, a_next_ats, a_next_kinds, a_expires)
           AS a (place, due, collected, attempt_no, round, step, open, state, currency,
                 period, next_at, next_kind, expires)
     WHERE verdicts IS NULL OR verdicts[a.place] = 0
        -- The row is there already when its own attempts change it, or when a refund made it while its period ran.
        ON CONFLICT (subscription_id, period) DO UPDATE
       SET rev = c.rev + 1, due_minor = EXCLUDED.due_minor, collected_minor = EXCLUDED.collected_minor,
           attempt_no = greatest(c.attempt_no, EXCLUDED.attempt_no), round = EXCLUDED.round, step = EXCLUDED.step,
           state = EXCLUDED.state, next_at_ms = EXCLUDED.next_at_ms, next_kind = EXCLUDED.next_kind,
           expires_at_ms = EXCLUDED.expires_at_ms,
           -- Only what this commit says of the row's own last attempt may end what is open: a refund that is unknown
           -- stays so, whatever became of the charge meanwhile.
           open = CASE WHEN EXISTS (SELECT FROM unnest(p_ids, p_periods, p_attempt_nos) AS own (id, period, attempt_no)
                                     WHERE own.id = c.subscription_id AND own.period = c.period
                                       AND own.attempt_no = c.attempt_no)
                       THEN EXCLUDED.open ELSE greatest(c.open, EXCLUDED.open) END;
END $$;
