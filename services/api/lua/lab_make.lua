#!lua
-- ARGV: tenant, lab, now. "ok", 1 when it was made now.
local made = call('HSETNX', P .. 'lab:' .. ARGV[1] .. ':' .. ARGV[2], '', ARGV[3])
call('SADD', P .. 'labs:' .. ARGV[1], ARGV[2])
return {'ok', tostring(made)}
