#!lua flags=allow-oom
-- ARGV: fence, now, how long ago a vmm that is away was last up, oldest use of an image that matters, most placements. Bounds what else
-- would only grow: vmms that will not come back, uses of images long ago, placements that no job has any more.
if not leads(ARGV[1]) then return {'deposed'} end
local now = tonumber(ARGV[2])
for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
  local key = P .. 'vmm:' .. v
  local h = call('HMGET', key, 'state', 'gone_at')
  if h[1] == 'up' then
    if h[2] then call('HDEL', key, 'gone_at') end
  elseif not h[2] then
    call('HSET', key, 'gone_at', ARGV[2])
  elseif now - tonumber(h[2]) > tonumber(ARGV[3]) and call('EXISTS', key .. ':run') == 0 then
    -- the key itself stays, small: its epoch must not be given a second time
    call('DEL', key .. ':img', key .. ':pool', key .. ':want')
    call('SREM', P .. 'vmms', v)
  end
end
local used = call('HGETALL', P .. 'used')
for i = 1, #used, 2 do
  if tonumber(used[i + 1]) < tonumber(ARGV[4]) then call('HDEL', P .. 'used', used[i]) end
end
if call('HLEN', P .. 'pl') > tonumber(ARGV[5]) and call('EXISTS', P .. 'alive') == 0 then
  call('DEL', P .. 'pl', P .. 'pln', P .. 'plc', P .. 'plfree')
end
return {'ok'}
