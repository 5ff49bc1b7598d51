#!lua
-- ARGV: tenant, image, machines, cores in thousandths, memory in MB. "noimage" or "ok".
local image = image_of(ARGV[1], ARGV[2])
if call('HEXISTS', P .. 'img', image) == 0 then return {'noimage'} end
call('HSET', P .. 'wish', image, ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
wake()
for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
  if call('HGET', P .. 'vmm:' .. v, 'state') == 'up' then call('PUBLISH', P .. 'v:' .. v, 'w') end
end
return {'ok'}
