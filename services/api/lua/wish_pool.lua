#!lua
-- ARGV: image, machines, cores in thousandths, memory in MB. "noimage" or "ok".
if call('HEXISTS', P .. 'img', ARGV[1]) == 0 then return {'noimage'} end
call('HSET', P .. 'wish', ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
wake()
for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
  if call('HGET', P .. 'vmm:' .. v, 'state') == 'up' then call('PUBLISH', P .. 'v:' .. v, 'w') end
end
return {'ok'}
