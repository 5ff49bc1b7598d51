#!lua flags=allow-oom
-- ARGV: vmm, epoch, 1 or 0, why. A vmm stops taking jobs by itself (its backend is broken, it is being stopped), and
-- takes them again; a drain that an operator wished is not its to end.
local key = P .. 'vmm:' .. ARGV[1]
local h = call('HMGET', key, 'epoch', 'state', 'drain', 'why')
if h[1] ~= ARGV[2] or h[2] ~= 'up' then return {'stale'} end
local by_operator = h[3] == '1' and h[4] and string.sub(h[4], 1, 8) == 'operator'
if by_operator then return {'ok'} end
call('HSET', key, 'drain', ARGV[3], 'why', ARGV[4])
if ARGV[3] == '0' then wake() end
return {'ok'}
