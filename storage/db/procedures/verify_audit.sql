-- Where the chain of audit_log is broken: rows changed, missing, out of place, or cut off at the end. Nothing: unbroken.
CREATE OR REPLACE FUNCTION verify_audit() RETURNS TABLE (seq bigint, what text)
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    WITH chain AS (
        SELECT a.*, lag(a.seq, 1, 0::bigint) OVER w AS seq_before,
               lag(a.digest, 1, decode(repeat('00', 32), 'hex')) OVER w AS digest_before
          FROM audit_log a WINDOW w AS (ORDER BY a.seq))
    SELECT c.seq, 'rows before it are missing' FROM chain c WHERE c.seq <> c.seq_before + 1
     UNION ALL
    SELECT c.seq, 'it does not follow from the row before it' FROM chain c WHERE c.before <> c.digest_before
     UNION ALL
    SELECT c.seq, 'it was changed' FROM chain c
     WHERE c.digest <> audit_digest(c.before, c.seq, c.at, c.who, c.account, c.act, c.subject, c.details)
     UNION ALL
    SELECT h.seq, 'the chain does not end with this row, as its head says'
      FROM audit_head h
      LEFT JOIN LATERAL (SELECT l.seq, l.digest FROM audit_log l ORDER BY l.seq DESC LIMIT 1) AS last ON true
     WHERE h.seq <> coalesce(last.seq, 0) OR (h.seq > 0 AND h.digest IS DISTINCT FROM last.digest)
     ORDER BY 1
$$;
