#!lua flags=no-writes
-- ARGV: tenant. "ok", how many vmms are up, how many of them take no jobs, how many hosts of those that are up are not used, name and
-- why of each of the former, vmm/name and why of each of the latter, then image, "total ids;free ids"
-- of each pool of each that is up.
local up, pools, idle, out = 0, {}, {}, {}
local vmms = call('SMEMBERS', P .. 'vmms')
table.sort(vmms)
for _, v in ipairs(vmms) do
  local h = call('HMGET', P .. 'vmm:' .. v, 'state', 'drain', 'why', 'hosts')
  if h[1] == 'up' then
    up = up + 1
    for _, s in ipairs(images_shown(ARGV[1], call('HGETALL', P .. 'vmm:' .. v .. ':pool'))) do pools[#pools + 1] = s end
    for name, why in string.gmatch(h[4] or '', '([^\t\n]*)\t([^\n]+)\n') do
      out[#out + 1] = v .. '/' .. name
      out[#out + 1] = why
    end
    if h[2] == '1' then
      idle[#idle + 1] = v
      idle[#idle + 1] = h[3] or ''
    end
  end
end
local reply = {'ok', tostring(up), tostring(#idle / 2), tostring(#out / 2)}
for _, s in ipairs(idle) do reply[#reply + 1] = s end
for _, s in ipairs(out) do reply[#reply + 1] = s end
for _, s in ipairs(pools) do reply[#reply + 1] = s end
return reply
