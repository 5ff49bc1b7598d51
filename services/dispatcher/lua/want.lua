#!lua flags=allow-oom
-- ARGV: fence, vmm, then image, warm machines wished there, ... Replaces what was wished before and tells the vmm.
if not leads(ARGV[1]) then return {'deposed'} end
local key = P .. 'vmm:' .. ARGV[2] .. ':want'
call('DEL', key)
for i = 3, #ARGV, 2 do call('HSET', key, ARGV[i], ARGV[i + 1]) end
call('PUBLISH', P .. 'v:' .. ARGV[2], 'w')
return {'ok'}
