-- Approves a proposal, once, by somebody else than who proposed it, as it was seen (`p_digest`) and while nothing of it
-- changed: the decision goes to the owner of the shard as evidence. Both ways the audit log says so. Returns `ok`,
-- `not_found`, `decided`, `expired`, `same_person` or `changed`.
CREATE OR REPLACE FUNCTION approve_decision(
    p_who text, p_account text, p_subject text, p_id bigint, p_digest bytea, p_evidence bytea
) RETURNS text
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_proposal decision_proposal;
    v_verdict  text;
BEGIN
    SELECT * INTO v_proposal FROM decision_proposal WHERE id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'not_found';
    END IF;
    v_verdict := CASE
        WHEN v_proposal.state = 1 THEN 'decided'
        WHEN v_proposal.state = 2 OR v_proposal.expires_at <= now() THEN 'expired'
        WHEN lower(p_who) = lower(v_proposal.proposed_by) THEN 'same_person'
        WHEN v_proposal.digest <> p_digest OR v_proposal.digest <> proposal_digest(v_proposal) THEN 'changed'
        WHEN NOT EXISTS (SELECT FROM attempt_open o
                          WHERE o.subscription_id = v_proposal.subscription_id AND o.period = v_proposal.period
                            AND o.attempt_no = v_proposal.attempt_no AND o.kind = v_proposal.open_kind
                            AND o.since = v_proposal.open_since AND o.currency = v_proposal.currency) THEN 'changed'
        ELSE 'ok' END;
    IF v_verdict = 'ok' THEN
        UPDATE decision_proposal SET state = 1, decided_at = now(), approved_by = p_who, approved_account = p_account
         WHERE id = p_id;
        INSERT INTO shard_inbox (shard, kind, subscription_id, payload)
        VALUES ((v_proposal.subscription_id >> 32)::int, 3, v_proposal.subscription_id, p_evidence);
    END IF;
    PERFORM audit(p_who, p_account, CASE v_verdict WHEN 'ok' THEN 'approve' ELSE 'approve_refused' END, p_subject,
        jsonb_build_object('proposal', p_id, 'verdict', v_verdict, 'digest', encode(v_proposal.digest, 'hex'))::text);
    RETURN v_verdict;
END $$;
