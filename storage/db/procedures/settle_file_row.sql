-- Keeps a row of a carrier's file that does not merely say what is recorded already, and opens the case that it makes, one
-- of each kind and wording per attempt. Returns the row's number; NULL when the line is kept already.
CREATE OR REPLACE FUNCTION settle_file_row(
    p_file bigint, p_line bigint, p_subscription_id bigint, p_seed bigint, p_period int, p_attempt_no int2, p_moved bigint,
    p_reason int2, p_state int2, p_our_ref text, p_txn_id text, p_code text, p_sealed bytea, p_case text, p_what text
) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_id bigint;
BEGIN
    INSERT INTO carrier_file_row (file_id, line, subscription_id, moved_minor, ref_seed, period, attempt_no, reason, state,
                                  our_ref, carrier_txn_id, code, sealed)
    VALUES (p_file, p_line, p_subscription_id, p_moved, p_seed, p_period, p_attempt_no, p_reason, p_state, p_our_ref,
            p_txn_id, p_code, p_sealed)
        ON CONFLICT DO NOTHING
    RETURNING id INTO v_id;
    IF v_id IS NOT NULL AND p_case IS NOT NULL THEN
        INSERT INTO case_file (subscription_id, period, attempt_no, kind, what)
        SELECT p_subscription_id, p_period, p_attempt_no, p_case, left(p_what, 1000)
         WHERE NOT EXISTS (SELECT FROM case_file c
                            WHERE c.subscription_id = p_subscription_id AND c.period = p_period
                              AND c.attempt_no = p_attempt_no AND c.kind = p_case AND c.what = left(p_what, 1000));
    END IF;
    RETURN v_id;
END $$;
