#!lua flags=no-writes
-- ARGV: tenant. "ok", how many vmms are up, how many of them take no jobs, name and why of each of those, then image, "total ids;free ids"
-- of each pool of each that is up.
local up, pools, idle = 0, {}, {}
local vmms = call('SMEMBERS', P .. 'vmms')
table.sort(vmms)
for _, v in ipairs(vmms) do
  local h = call('HMGET', P .. 'vmm:' .. v, 'state', 'drain', 'why')
  if h[1] == 'up' then
    up = up + 1
    for _, s in ipairs(images_shown(ARGV[1], call('HGETALL', P .. 'vmm:' .. v .. ':pool'))) do pools[#pools + 1] = s end
    if h[2] == '1' then
      idle[#idle + 1] = v
      idle[#idle + 1] = h[3] or ''
    end
  end
end
local reply = {'ok', tostring(up), tostring(#idle / 2)}
for _, s in ipairs(idle) do reply[#reply + 1] = s end
for _, s in ipairs(pools) do reply[#reply + 1] = s end
return reply
