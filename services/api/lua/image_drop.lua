#!lua flags=allow-oom
-- ARGV: tenant, image, which: own, shared, or "" for what the tenant means by that name. "none"; "conflict" and why: "shared" when it is all tenants'
-- and the tenant's own was meant, else what uses it, a live job or a wish; "ok": its upload is forgotten and the vmms are told that it is not wanted
-- any more (`drop`, for an hour).
local function known(name)
  return call('HEXISTS', P .. 'img', name) + call('HEXISTS', P .. 'build', name) > 0
end
local own = own_image(ARGV[1], ARGV[2])
local name = ARGV[2]
if ARGV[3] == 'own' or (ARGV[3] == '' and known(own)) then name = own end
if not known(name) then
  if ARGV[3] == 'own' and known(ARGV[2]) then return {'conflict', 'shared'} end
  return {'none'}
end
if call('HEXISTS', P .. 'wish', name) == 1 then return {'conflict', 'a pool of it is wished'} end
local live = call('ZRANGE', P .. 'alive', 0, 9999)
for _, id in ipairs(live) do
  local h = call('HMGET', P .. 'j:' .. id, 'pl', 'te')
  local text = h[1] and call('HGET', P .. 'pln', h[1])
  if text and string.match(text, '^[^\n]*') == name then
    return {'conflict', h[2] == ARGV[1] and 'job ' .. id .. ' needs it' or "another tenant's job needs it"}
  end
end
if #live == 10000 then return {'conflict', 'too many jobs are live to tell'} end
call('HDEL', P .. 'build', name)
call('SREM', P .. 'built', name)
call('ZREM', P .. 'builds_at', name)
call('HDEL', P .. 'used', name) -- so that its warm machines go
local drop, now = call('HGETALL', P .. 'drop'), clock()
for i = 1, #drop, 2 do
  if now - tonumber(drop[i + 1]) > 3600000 then call('HDEL', P .. 'drop', drop[i]) end
end
call('HSET', P .. 'drop', name, string.format('%.0f', now))
wake()
tell(string.format('image removed %.0f %s', clock(), name))
tell_builds()
return {'ok'}
