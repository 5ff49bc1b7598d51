#!lua flags=no-writes
-- "ok", wishes (image, "n cores memory", ...), then of each vmm that is up: name, wants (image, n, ...), pools (image, "total;free", ...).
local reply = {'ok', call('HGETALL', P .. 'wish')}
local vmms = call('SMEMBERS', P .. 'vmms')
table.sort(vmms)
for _, v in ipairs(vmms) do
  local key = P .. 'vmm:' .. v
  if call('HGET', key, 'state') == 'up' then
    reply[#reply + 1] = {v, call('HGETALL', key .. ':want'), call('HGETALL', key .. ':pool')}
  end
end
return reply
