-- Keeps a checked book as the next version and tells the workers. p_expect is the version that it was planned against
-- (NULL: whatever is in force); p_first: only when there is none. Returns the new version, or 0 when another one is in
-- force by now, or minus its number when this very book is in force already.
CREATE OR REPLACE FUNCTION apply_book(
    p_digest bytea, p_files text, p_expect int, p_first boolean, p_by text, p_note text
) RETURNS int
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_current int;
    v_digest  bytea;
BEGIN
    PERFORM pg_advisory_xact_lock(7130004);
    SELECT version, digest INTO v_current, v_digest FROM book_version ORDER BY version DESC LIMIT 1;
    v_current := coalesce(v_current, 0);
    IF p_expect IS NOT NULL AND p_expect <> v_current OR p_first AND v_current > 0 THEN
        RETURN 0;
    ELSIF v_digest = p_digest THEN
        RETURN -v_current;
    END IF;
    INSERT INTO book_version (version, digest, files, applied_by, note)
    VALUES (v_current + 1, p_digest, p_files::jsonb, left(p_by, 128), left(p_note, 500));
    PERFORM pg_notify('tollbook_book', (v_current + 1)::text);
    RETURN v_current + 1;
END $$;
