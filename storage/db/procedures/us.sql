-- An instant of machine time as microseconds since 1970.
CREATE OR REPLACE FUNCTION us(p_at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE SET search_path = public, pg_temp AS $$
    SELECT (extract(epoch FROM p_at) * 1000000)::bigint
$$;
