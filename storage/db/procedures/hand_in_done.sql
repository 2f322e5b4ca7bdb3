-- A spool was read to its end for these quarantines.
CREATE OR REPLACE FUNCTION hand_in_done(
    p_host text, p_spool text, p_boot_id text, p_quarantines bigint[], p_lines bigint, p_lost bigint
) RETURNS void
LANGUAGE sql SET search_path = public, pg_temp AS $$
    INSERT INTO quarantine_spool (quarantine_id, host, spool, boot_id, handed_in_at, lines, lost)
    SELECT q, p_host, p_spool, p_boot_id, now(), p_lines, p_lost FROM unnest(p_quarantines) AS u (q)
        ON CONFLICT (quarantine_id, host, spool, boot_id) DO UPDATE
       SET handed_in_at = coalesce(quarantine_spool.handed_in_at, now()), lines = EXCLUDED.lines, lost = EXCLUDED.lost
$$;
