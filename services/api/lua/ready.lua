#!lua flags=no-writes
-- ARGV: run id. "ok" and 1 when a dispatcher has taken charge of this very Redis: ids can be given out.
local m = call('HMGET', P .. 'meta', 'run_id', 'id_limit')
return {'ok', m[1] == ARGV[1] and m[2] and '1' or '0'}
