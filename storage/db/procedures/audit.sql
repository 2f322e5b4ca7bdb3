-- Adds an act of a person to the chain, in the commit of the act. One after the other: the head is locked until then.
CREATE OR REPLACE FUNCTION audit(
    p_who text, p_account text, p_act text, p_subject text, p_details text
) RETURNS bigint
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_head   audit_head;
    v_at     timestamptz;
    v_digest bytea;
BEGIN
    SELECT * INTO STRICT v_head FROM audit_head FOR UPDATE;
    v_at := clock_timestamp();
    v_digest := audit_digest(v_head.digest, v_head.seq + 1, v_at, p_who, p_account, p_act, p_subject, left(p_details, 4000));
    INSERT INTO audit_log (seq, at, who, account, act, subject, details, before, digest)
    VALUES (v_head.seq + 1, v_at, p_who, p_account, p_act, p_subject, left(p_details, 4000), v_head.digest, v_digest);
    UPDATE audit_head SET seq = v_head.seq + 1, digest = v_digest;
    RETURN v_head.seq + 1;
END $$;
