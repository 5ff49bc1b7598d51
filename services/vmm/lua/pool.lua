-- ARGV: vmm, epoch, then image, "total ids;free ids" of each pool. Replaces what was said before.
local key = P .. 'vmm:' .. ARGV[1]
local h = call('HMGET', key, 'epoch', 'state')
if h[1] ~= ARGV[2] or h[2] ~= 'up' then return {'stale'} end
call('DEL', key .. ':pool')
for i = 3, #ARGV, 2 do call('HSET', key .. ':pool', ARGV[i], ARGV[i + 1]) end
call('PUBLISH', P .. 'pools', ARGV[1])
tell(string.format('pool changed %.0f %s', clock(), ARGV[1]))
return {'ok'}
