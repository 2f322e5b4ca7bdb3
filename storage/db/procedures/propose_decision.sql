-- Proposes what became of an attempt that is unknown or in review; another person approves it within 24 hours. Returns
-- the proposal's number, or NULL when the attempt is not open so, or is asked about already.
CREATE OR REPLACE FUNCTION propose_decision(
    p_who text, p_account text, p_subject text, p_subscription_id bigint, p_period int, p_attempt_no int2, p_reason int2,
    p_word text, p_moved_minor bigint, p_why text
) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_open     attempt_open;
    v_proposal decision_proposal;
BEGIN
    UPDATE decision_proposal SET state = 2
     WHERE subscription_id = p_subscription_id AND period = p_period AND attempt_no = p_attempt_no
       AND state = 0 AND expires_at <= now();
    SELECT * INTO v_open FROM attempt_open
     WHERE subscription_id = p_subscription_id AND period = p_period AND attempt_no = p_attempt_no AND kind IN (2, 3);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO decision_proposal (subscription_id, moved_minor, open_since, expires_at, period, attempt_no, open_kind,
                                   reason, currency, proposed_by, proposed_account, why, digest)
    VALUES (p_subscription_id, p_moved_minor, v_open.since, now() + interval '24 hours', p_period, p_attempt_no,
            v_open.kind, p_reason, v_open.currency, p_who, p_account, p_why, decode(repeat('00', 32), 'hex'))
        ON CONFLICT DO NOTHING
    RETURNING * INTO v_proposal;
    IF v_proposal.id IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE decision_proposal p SET digest = proposal_digest(p) WHERE p.id = v_proposal.id RETURNING * INTO v_proposal;
    PERFORM audit(p_who, p_account, 'propose', p_subject, jsonb_build_object(
        'proposal', v_proposal.id, 'outcome', p_word, 'moved_minor', p_moved_minor, 'why', p_why,
        'digest', encode(v_proposal.digest, 'hex'))::text);
    RETURN v_proposal.id;
END $$;
