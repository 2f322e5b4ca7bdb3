-- The digest of a row of audit_log: SHA-256 over the digest before and each field with its length before it.
CREATE OR REPLACE FUNCTION audit_digest(
    p_before bytea, p_seq bigint, p_at timestamptz, p_who text, p_account text, p_act text, p_subject text, p_details text
) RETURNS bytea
LANGUAGE sql IMMUTABLE SET search_path = public, pg_temp AS $$
    SELECT sha256(p_before || string_agg(int8send(octet_length(f.bytes)::bigint) || f.bytes, ''::bytea ORDER BY f.place))
      FROM (SELECT convert_to(v.text, 'UTF8') AS bytes, v.place
              FROM unnest(ARRAY[p_seq::text, ((extract(epoch FROM p_at) * 1000000)::bigint)::text, p_who, p_account,
                                p_act, p_subject, p_details]) WITH ORDINALITY AS v (text, place)) AS f
$$;
