#!lua flags=allow-oom
-- ARGV: id, token, now, verdict, sha256 and size of the feedback, message, where in it the output begins, what it used (P:j:ID `us`) or
-- "", then names of counters to add to.
local id, token, now = ARGV[1], ARGV[2], ARGV[3]
if not holds(id, token) then return {'fenced'} end
for i = 10, #ARGV do call('HINCRBY', P .. 'stats', ARGV[i], 1) end
if ARGV[8] then call('HSET', P .. 'j:' .. id, 'fo', ARGV[8]) end
if ARGV[9] and ARGV[9] ~= '' then call('HSET', P .. 'j:' .. id, 'us', ARGV[9]) end
finish(id, now, ARGV[4], ARGV[5], ARGV[6], ARGV[7])
return {'ok'}
