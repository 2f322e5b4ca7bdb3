-- The digest of everything that an approval binds.
CREATE OR REPLACE FUNCTION proposal_digest(p decision_proposal) RETURNS bytea
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT sha256(convert_to(jsonb_build_array(
        p.subscription_id, p.period, p.attempt_no, p.open_kind, (extract(epoch FROM p.open_since) * 1000000)::bigint,
        p.reason, p.moved_minor, p.currency, p.why, p.proposed_by, p.proposed_account)::text, 'UTF8'))
$$;
