#!lua flags=allow-oom
-- ARGV: id, token, now, due or 0, charge 0/1, code, arg, then names of counters to add to.
local id, token, now = ARGV[1], ARGV[2], ARGV[3]
if not holds(id, token) then return {'fenced'} end
for i = 8, #ARGV do call('HINCRBY', P .. 'stats', ARGV[i], 1) end
if ARGV[5] == '1' then call('HINCRBY', P .. 'j:' .. id, 'c', 1) end
requeue(id, now, ARGV[4], ARGV[6], ARGV[7])
return {'ok'}
