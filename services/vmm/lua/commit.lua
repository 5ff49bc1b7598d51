#!lua flags=allow-oom
-- ARGV: id, token, now, verdict, sha256 and size of the feedback, message, then names of counters to add to.
local id, token, now = ARGV[1], ARGV[2], ARGV[3]
if not holds(id, token) then return {'fenced'} end
for i = 8, #ARGV do call('HINCRBY', P .. 'stats', ARGV[i], 1) end
finish(id, now, ARGV[4], ARGV[5], ARGV[6], ARGV[7])
return {'ok'}
