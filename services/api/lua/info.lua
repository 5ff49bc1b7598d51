#!lua flags=no-writes
-- "ok", the slots of the vmms that are up, then the counters: name, value, ...
local slots = 0
for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
  local h = call('HMGET', P .. 'vmm:' .. v, 'state', 'slots')
  if h[1] == 'up' then slots = slots + (tonumber(h[2]) or 0) end
end
local reply = {'ok', string.format('%d', slots)}
for _, s in ipairs(call('HGETALL', P .. 'stats')) do reply[#reply + 1] = s end
return reply
