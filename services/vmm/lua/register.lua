#!lua flags=allow-oom
-- ARGV: vmm, slots, driver, labels, version, newest body version it reads, now.
-- A new life of a vmm. What an earlier life still had goes back to the queue uncharged; a job under which
-- the worker had begun real work counts one lost worker more, so that one that kills its workers is found.
-- A drain that was our own is over with the life that wished it; an operator's stays.
local v, now = ARGV[1], ARGV[7]
local key = P .. 'vmm:' .. v
local run = call('HGETALL', key .. ':run')
local why = call('HGET', key, 'why')
local drained = call('HGET', key, 'drain')
local keep = drained == '1' and why and string.sub(why, 1, 8) == 'operator'
local epoch = call('HINCRBY', key, 'epoch', 1)
for i = 1, #run, 2 do
  local id, token = run[i], run[i + 1]
  if holds(id, token) then
    if call('HGET', P .. 'j:' .. id, 's') ~= 'a' then call('HINCRBY', P .. 'j:' .. id, 'k', 1) end
    requeue(id, now, 0, 'lost', v)
  end
end
call('DEL', key .. ':run', key .. ':pool')
call('SADD', P .. 'vmms', v)
call('HSET', key, 'beat', 0, 'state', 'up', 'slots', ARGV[2], 'driver', ARGV[3], 'labels', ARGV[4],
  'version', ARGV[5], 'body', ARGV[6])
if not keep then call('HSET', key, 'drain', 0, 'why', '') end
wake()
return {'ok', tostring(epoch)}
