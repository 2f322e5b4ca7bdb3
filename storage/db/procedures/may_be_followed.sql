-- Whether somebody who lost sight of an attempt with this outcome would have made the next one by himself: it was proven not to
-- have left (7) or not to have been applied (8). A refund (5) is asked for again by people; and where people decided (108),
-- they looked at all that the carrier has of the charge.
CREATE OR REPLACE FUNCTION may_be_followed(p_class int2, p_op int2, p_rule_id int2) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = public, pg_temp AS $$
    SELECT p_class IN (7, 8) AND p_op <> 5 AND p_rule_id <> 108
$$;
