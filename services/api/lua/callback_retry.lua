#!lua flags=allow-oom
-- ARGV: tenant, id, now. Makes the callback of a finished job due, whatever came of it before. "none", "conflict" and a code, "ok".
local id = ARGV[2]
local h = call('HMGET', P .. 'j:' .. id, 'te', 's', 'cb', 'fd')
if h[1] ~= ARGV[1] then return {'none'} end
if not h[3] then return {'conflict', 'no-callback'} end
if h[2] ~= 'f' or not h[4] then return {'conflict', 'not-finished'} end
call('HDEL', P .. 'j:' .. id, 'cs', 'cy')
call('ZADD', P .. 'outbox', ARGV[3], id)
call('ZADD', P .. 'outbox_at', ARGV[3], id) -- its age counts from here
call('HSET', P .. 'ob:' .. id, 'tries', 0, 'held', 1)
wake()
return {'ok', ARGV[3]}
