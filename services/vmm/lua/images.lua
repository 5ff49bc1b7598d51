-- ARGV: vmm, epoch, then name, digest of each image that its backend has.
local v = ARGV[1]
local key = P .. 'vmm:' .. v
local h = call('HMGET', key, 'epoch', 'state')
if h[1] ~= ARGV[2] or h[2] ~= 'up' then return {'stale'} end
local names = {}
for _, name in ipairs(call('HKEYS', key .. ':img')) do names[name] = true end
call('DEL', key .. ':img')
for i = 3, #ARGV, 2 do
  names[ARGV[i]] = true
  call('HSET', key .. ':img', ARGV[i], ARGV[i + 1])
end
catalogue(names)
wake()
return {'ok'}
