#!lua flags=allow-oom
-- ARGV: fence, vmm, epoch and beat that were unchanged for too long, now. Judges a vmm lost, if it has said nothing
-- since: what it had goes back to the queue, at once, and counts a lost worker more when work had begun. "ok" and how many; or
-- "moved".
if not leads(ARGV[1]) then return {'deposed'} end
local v, now = ARGV[2], ARGV[5]
local key = P .. 'vmm:' .. v
local h = call('HMGET', key, 'epoch', 'beat', 'state')
if h[3] ~= 'up' or h[1] ~= ARGV[3] or (h[2] or '') ~= ARGV[4] then return {'moved'} end
local run = call('HGETALL', key .. ':run')
for i = 1, #run, 2 do
  local id = run[i]
  if holds(id, run[i + 1]) then
    local j = P .. 'j:' .. id
    if call('HGET', j, 's') ~= 'a' then call('HINCRBY', j, 'k', 1) end
    requeue(id, now, 0, 'lost', v)
  end
end
call('DEL', key .. ':run', key .. ':pool')
call('HSET', key, 'state', 'lost')
call('PUBLISH', P .. 'pools', v)
wake()
return {'ok', string.format('%d', #run / 2)}
