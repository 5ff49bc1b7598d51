#!lua flags=no-writes
-- ARGV: tenant. "ok", wishes (image, "n cores memory", ...), then of each vmm that is up: name, wants (image, n, ...), pools (image, "total;free", ...).
local reply = {'ok', images_shown(ARGV[1], call('HGETALL', P .. 'wish'))}
local vmms = call('SMEMBERS', P .. 'vmms')
table.sort(vmms)
for _, v in ipairs(vmms) do
  local key = P .. 'vmm:' .. v
  if call('HGET', key, 'state') == 'up' then
    reply[#reply + 1] = {v, images_shown(ARGV[1], call('HGETALL', key .. ':want')), images_shown(ARGV[1], call('HGETALL', key .. ':pool'))}
  end
end
return reply
