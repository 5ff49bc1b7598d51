#!lua flags=allow-oom
-- ARGV: vmm, epoch, 1 or 0, why. A vmm stops taking jobs by itself (its backend is broken, it is being stopped), and
-- takes them again; a drain that an operator wished is not its to end.
local key = P .. 'vmm:' .. ARGV[1]
local h = call('HMGET', key, 'epoch', 'state', 'drain', 'why')
if h[1] ~= ARGV[2] or h[2] ~= 'up' then return {'stale'} end
-- what is said here holds under an operator's drain too, and shows when that ends
call('HSET', key, 'own', ARGV[3] == '1' and ARGV[4] or '')
local by_operator = h[3] == '1' and h[4] and string.sub(h[4], 1, 8) == 'operator'
if by_operator then return {'ok'} end
if (h[3] or '0') ~= ARGV[3] then tell_vmm(ARGV[1], ARGV[3] == '1' and 'drain' or 'resume') end
call('HSET', key, 'drain', ARGV[3], 'why', ARGV[4])
if ARGV[3] == '0' then wake() end
return {'ok'}
