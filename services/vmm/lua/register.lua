#!lua flags=allow-oom
-- ARGV: vmm, slots, driver, labels, version, newest body version it reads, now.
-- A new life of a vmm. What an earlier life still had goes back to the queue, as when the vmm is judged lost.
-- A drain that was our own is over with the life that wished it; an operator's stays.
local v, now = ARGV[1], ARGV[7]
local key = P .. 'vmm:' .. v
local h = call('HMGET', key, 'drain', 'why')
local keep = h[1] == '1' and h[2] and string.sub(h[2], 1, 8) == 'operator'
-- one counter for all, so that none is given twice to a vmm that was forgotten meanwhile
local epoch = call('HINCRBY', P .. 'meta', 'vmm_epoch', 1)
local last = tonumber(call('HGET', key, 'epoch') or 0) or 0
if last >= epoch then
  epoch = last + 1
  call('HSET', P .. 'meta', 'vmm_epoch', epoch)
end
call('HSET', key, 'epoch', epoch)
lose(v, now)
call('SADD', P .. 'vmms', v)
call('HSET', key, 'beat', 0, 'own', '', 'state', 'up', 'slots', ARGV[2], 'driver', ARGV[3], 'labels', ARGV[4],
  'version', ARGV[5], 'body', ARGV[6], 'hosts', '')
if not keep then call('HSET', key, 'drain', 0, 'why', '') end
tell_vmm(v, 'up')
wake()
return {'ok', tostring(epoch)}
