#!lua flags=allow-oom
-- ARGV: image. "none"; "conflict" and why, while a live job or a wish names it; "ok": its upload is forgotten and the vmms are told that it
-- is not wanted any more (`drop`, for an hour).
local name = ARGV[1]
if call('HEXISTS', P .. 'img', name) + call('HEXISTS', P .. 'build', name) == 0 then return {'none'} end
if call('HEXISTS', P .. 'wish', name) == 1 then return {'conflict', 'a pool of it is wished'} end
local live = call('ZRANGE', P .. 'alive', 0, 9999)
for _, id in ipairs(live) do
  local pl = call('HGET', P .. 'j:' .. id, 'pl')
  local text = pl and call('HGET', P .. 'pln', pl)
  if text and string.match(text, '^[^\n]*') == name then return {'conflict', 'job ' .. id .. ' needs it'} end
end
if #live == 10000 then return {'conflict', 'too many jobs are live to tell'} end
call('HDEL', P .. 'build', name)
call('ZREM', P .. 'builds_at', name)
call('HDEL', P .. 'used', name) -- so that its warm machines go
local drop, now = call('HGETALL', P .. 'drop'), clock()
for i = 1, #drop, 2 do
  if now - tonumber(drop[i + 1]) > 3600000 then call('HDEL', P .. 'drop', drop[i]) end
end
call('HSET', P .. 'drop', name, string.format('%.0f', now))
wake()
tell(string.format('image removed %.0f %s', clock(), name))
for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
  if call('HGET', P .. 'vmm:' .. v, 'state') == 'up' then call('PUBLISH', P .. 'v:' .. v, 'b') end
end
return {'ok'}
