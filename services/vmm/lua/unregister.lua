#!lua flags=allow-oom
-- ARGV: vmm, epoch, now. The ordinary end of a vmm; what it still had goes back uncharged.
local v = ARGV[1]
local key = P .. 'vmm:' .. v
if call('HGET', key, 'epoch') ~= ARGV[2] then return {'stale'} end
local run = call('HGETALL', key .. ':run')
for i = 1, #run, 2 do
  if holds(run[i], run[i + 1]) then requeue(run[i], ARGV[3], 0, 'failed', 'worker ' .. v .. ' was stopped') end
end
call('DEL', key .. ':run', key .. ':pool')
call('HSET', key, 'state', 'down', 'drain', 0, 'why', '')
call('PUBLISH', P .. 'pools', v)
wake()
return {'ok'}
