#!lua flags=allow-oom
-- ARGV: fence, now, how long ago a vmm that is away was last up, oldest use of an image that matters, most vmms that are away, most
-- wishes. Bounds what else would only grow: vmms that will not come back and the images that only they had, uses of images long
-- ago, wishes for images that nobody has.
if not leads(ARGV[1]) then return {'deposed'} end
local now = tonumber(ARGV[2])
local away = {}
for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
  local key = P .. 'vmm:' .. v
  local h = call('HMGET', key, 'state', 'gone_at')
  if h[1] == 'up' then
    if h[2] then call('HDEL', key, 'gone_at') end
  elseif call('EXISTS', key .. ':run') == 0 then
    if not h[2] then call('HSET', key, 'gone_at', ARGV[2]) end
    away[#away + 1] = {v, tonumber(h[2]) or now}
  end
end
table.sort(away, function(a, b) return a[2] < b[2] end)
local names = {}
for i, a in ipairs(away) do
  if now - a[2] > tonumber(ARGV[3]) or #away - i >= tonumber(ARGV[5]) then
    local key = P .. 'vmm:' .. a[1]
    for _, name in ipairs(call('HKEYS', key .. ':img')) do names[name] = true end
    call('DEL', key, key .. ':img', key .. ':pool', key .. ':want')
    call('SREM', P .. 'vmms', a[1])
  end
end
catalogue(names)
local used = call('HGETALL', P .. 'used')
for i = 1, #used, 2 do
  if (tonumber(used[i + 1]) or 0) < tonumber(ARGV[4]) then call('HDEL', P .. 'used', used[i]) end
end
if call('HLEN', P .. 'wish') > tonumber(ARGV[6]) then
  for _, name in ipairs(call('HKEYS', P .. 'wish')) do
    if call('HEXISTS', P .. 'img', name) == 0 then call('HDEL', P .. 'wish', name) end
  end
end
return {'ok'}
