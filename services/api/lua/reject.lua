#!lua
-- ARGV: run id, now, body, tenant, lab, then each line of the trace. A job that is refused has an id and goes straight to the dead:
-- verdict `rejected`, no feedback, no result, no callback.
local m = call('HMGET', P .. 'meta', 'run_id', 'id_next', 'id_limit')
if m[1] ~= ARGV[1] then return {'stale'} end
local next_id, limit = tonumber(m[2]), tonumber(m[3])
if not next_id or not limit or next_id >= limit then
  wake()
  return {'ids'}
end
local id = string.format('%d', next_id)
local now, tenant = ARGV[2], ARGV[4]
call('HSET', P .. 'meta', 'id_next', string.format('%d', next_id + 1))
call('HSET', P .. 'j:' .. id, 's', 'f', 'x', 'rejected', 'te', tenant, 'la', ARGV[5], 'at', now, 'ft', now)
call('SET', P .. 'b:' .. id, ARGV[3])
for i = 6, #ARGV do trace(id, now, 'line', ARGV[i]) end
call('ZADD', P .. 'dead:' .. tenant, id, id)
call('ZADD', P .. 'dead', now, id)
call('HINCRBY', P .. 'stats', 'job_requests', 1)
call('HINCRBY', P .. 'stats', 'v_rejected', 1)
wake()
return {'ok', id}
