#!lua
-- ARGV: run id, now, body, tenant, lab, then each line of the trace. A job that is refused has an id and goes straight to the dead:
-- verdict `rejected`, no feedback, no result, no callback.
local id, why = next_id(ARGV[1])
if not id then return {why} end
local now, tenant = ARGV[2], ARGV[4]
call('HSET', P .. 'j:' .. id, 's', 'f', 'x', 'rejected', 'te', tenant, 'la', ARGV[5], 'at', now, 'ft', now)
call('SET', P .. 'b:' .. id, ARGV[3])
for i = 6, #ARGV do trace(id, now, 'line', ARGV[i]) end
call('ZADD', P .. 'dead:' .. tenant, id, id)
call('ZADD', P .. 'dead', now, id)
call('HINCRBY', P .. 'stats', 'job_requests', 1)
call('HINCRBY', P .. 'stats', 'v_rejected', 1)
wake()
return {'ok', id}
