#!lua
-- ARGV: run id, now, body, tenant, lab, most rejected jobs, then each line of the trace. A job that is refused has an id and
-- goes straight to the dead: verdict `rejected`, no feedback, no result, no callback. They have a bound of their own, so that
-- they do not drive out what has been graded: the oldest go as new ones come.
local id, why = next_id(ARGV[1])
if not id then return {why} end
local now, tenant = ARGV[2], ARGV[4]
call('HSET', P .. 'j:' .. id, 's', 'f', 'x', 'rejected', 'te', tenant, 'la', ARGV[5], 'at', now, 'ft', now)
call('SET', P .. 'b:' .. id, ARGV[3])
room('dead_bytes', #ARGV[3])
for i = 7, #ARGV do trace(id, now, 'line', ARGV[i]) end
call('ZADD', P .. 'dead:' .. tenant, id, id)
call('ZADD', P .. 'rejected', now, id)
for _, old in ipairs(surplus(P .. 'rejected', math.max(tonumber(ARGV[6]), 1), 0, 2)) do
  forget(old)
  call('ZREM', P .. 'rejected', old)
end
call('HINCRBY', P .. 'stats', 'job_requests', 1)
call('HINCRBY', P .. 'stats', 'v_rejected', 1)
tell_job(id, 'line')
wake()
return {'ok', id}
