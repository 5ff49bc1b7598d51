#!lua
-- ARGV: run id, now, tenant, lab, output file, class, placement text, has callback 0/1, dup hex or "", dup ms, most live jobs, body.
-- One accepted job: its id, body and state, and its place in the queue. The ids of the block are id_next <= id < id_limit.
local m = call('HMGET', P .. 'meta', 'run_id', 'id_next', 'id_limit')
if m[1] ~= ARGV[1] then return {'stale'} end
local dup = ARGV[9] ~= '' and P .. 'dup:' .. ARGV[9]
if dup then
  local same = call('GET', dup)
  if same then return {'dup', same} end
end
if call('ZCARD', P .. 'alive') >= tonumber(ARGV[11]) then return {'full'} end
local next_id, limit = tonumber(m[2]), tonumber(m[3])
if not next_id or not limit or next_id >= limit then
  wake()
  return {'ids'}
end
local id = string.format('%d', next_id)
local now, tenant = ARGV[2], ARGV[3]
local pl = call('HGET', P .. 'pl', ARGV[7])
if not pl then
  pl = call('HINCRBY', P .. 'meta', 'pl_next', 1)
  call('HSET', P .. 'pl', ARGV[7], pl)
  call('HSET', P .. 'pln', pl, ARGV[7])
end
call('HSET', P .. 'meta', 'id_next', string.format('%d', next_id + 1))
call('HSET', P .. 'j:' .. id, 's', 'q', 'te', tenant, 'la', ARGV[4], 'of', ARGV[5], 'pl', pl, 'cl', ARGV[6], 'at', now)
if ARGV[8] == '1' then call('HSET', P .. 'j:' .. id, 'cb', 1) end
call('SET', P .. 'b:' .. id, ARGV[12])
call('ZADD', P .. 'alive', now, id)
call('ZADD', P .. 'live:' .. tenant, id, id)
enqueue(id)
if dup then call('SET', dup, id, 'PX', ARGV[10]) end
call('HINCRBY', P .. 'stats', 'job_requests', 1)
wake()
return {'ok', id}
