-- A sent line names the wish that it began with: a failover may leave the wish and lose the intent.

DROP FUNCTION IF EXISTS hand_in_lines;
DROP FUNCTION IF EXISTS list_doubts;
