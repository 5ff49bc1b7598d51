#!lua flags=allow-oom
-- ARGV: vmm, epoch, now. The ordinary end of a vmm; what it still had goes back uncharged.
local v = ARGV[1]
local key = P .. 'vmm:' .. v
if call('HGET', key, 'epoch') ~= ARGV[2] then return {'stale'} end
local run = call('HGETALL', key .. ':run')
local function back(id, token)
  if holds(id, token) then requeue(id, ARGV[3], 0, 'failed', 'worker ' .. v .. ' was stopped') end
end
for i = 1, #run, 2 do guard(back, run[i], run[i + 1]) end
call('DEL', key .. ':run', key .. ':pool')
call('HSET', key, 'state', 'down', 'drain', 0, 'why', '')
call('PUBLISH', P .. 'pools', v)
tell_vmm(v, 'down')
wake()
return {'ok'}
