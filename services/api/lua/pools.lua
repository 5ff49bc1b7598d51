#!lua flags=no-writes
-- "ok", how many vmms are up, then image, "total ids;free ids" of each pool of each of them.
local up, reply = 0, {'ok', '0'}
local vmms = call('SMEMBERS', P .. 'vmms')
table.sort(vmms)
for _, v in ipairs(vmms) do
  if call('HGET', P .. 'vmm:' .. v, 'state') == 'up' then
    up = up + 1
    for _, s in ipairs(call('HGETALL', P .. 'vmm:' .. v .. ':pool')) do reply[#reply + 1] = s end
  end
end
reply[2] = tostring(up)
return reply
