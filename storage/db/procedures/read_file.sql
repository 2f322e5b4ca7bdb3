-- What was read in a kept file, before any of its rows counts: which time it covers, its rows and sums, and what is wrong
-- with it. A complete file that covers the same span as another one with other content contradicts it: neither proves
-- anything by absence from then on, and the rows of the later one are for people. Returns the flaw that stands, and the
-- file that it contradicts.
CREATE OR REPLACE FUNCTION read_file(
    p_id bigint, p_from_us bigint, p_until_us bigint, p_rows bigint, p_sums text, p_flaw text,
    OUT stands text, OUT against bigint
)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_from    timestamptz := to_timestamp(p_from_us / 1000000.0);
    v_until   timestamptz := to_timestamp(p_until_us / 1000000.0);
    v_carrier int;
BEGIN
    SELECT f.carrier_no INTO STRICT v_carrier FROM carrier_file f WHERE f.id = p_id FOR UPDATE;
    stands := coalesce(p_flaw, CASE WHEN v_until > now() THEN 'it covers time that has not passed yet' END);
    IF stands IS NULL THEN
        SELECT max(f.id) INTO against FROM carrier_file f
         WHERE f.carrier_no = v_carrier AND f.id <> p_id AND f.covers_from = v_from AND f.covers_until = v_until
           AND f.flaw IS NULL AND f.state IN (1, 2, 4);
        UPDATE carrier_file f SET state = 4, contradicts = p_id
         WHERE against IS NOT NULL AND f.carrier_no = v_carrier AND f.id <> p_id AND f.covers_from = v_from
           AND f.covers_until = v_until AND f.state = 2;
    END IF;
    UPDATE carrier_file f SET state = 1, covers_from = v_from, covers_until = v_until, rows = p_rows, sums = p_sums,
           flaw = stands, contradicts = against
     WHERE f.id = p_id;
END $$;
