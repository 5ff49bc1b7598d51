#!lua flags=no-writes
-- ARGV: tenant, 0 live or 1 dead, most jobs. "ok", how many there are, then of each by rising id: id, body, s, v's driver, n, m, x,
-- at, and its trace as an array. Of too many live ones the oldest (they run or run next), of too many dead ones the newest.
local most, dead = tonumber(ARGV[3]), ARGV[2] == '1'
local key = P .. (dead and 'dead:' or 'live:') .. ARGV[1]
local ids = dead and call('ZREVRANGE', key, 0, most - 1) or call('ZRANGE', key, 0, most - 1)
-- no more of them than have so many bytes of bodies, of which each may have 256 KB
local BYTES_MAX, bytes, keep = 67108864, 0, {}
for _, id in ipairs(ids) do
  if call('TYPE', P .. 'b:' .. id).ok == 'string' then bytes = bytes + call('STRLEN', P .. 'b:' .. id) end
  if bytes > BYTES_MAX then break end
  keep[#keep + 1] = id
end
for i = 1, dead and math.floor(#keep / 2) or 0 do
  keep[i], keep[#keep + 1 - i] = keep[#keep + 1 - i], keep[i]
end
ids = keep
local reply = {'ok', tostring(call('ZCARD', key))}
local drivers, some = {}, ''
for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
  drivers[v] = call('HGET', P .. 'vmm:' .. v, 'driver') or ''
  some = drivers[v]
end
local function show(id)
  local h = call('HMGET', P .. 'j:' .. id, 's', 'v', 'n', 'm', 'x', 'at')
  local body = call('GET', P .. 'b:' .. id)
  if body and h[1] then
    reply[#reply + 1] = {id, body, h[1], h[2] and drivers[h[2]] or some, h[3] or '0', h[4] or '', h[5] or '',
      h[6] or '0', call('LRANGE', P .. 't:' .. id, 0, -1)}
  end
end
for _, id in ipairs(ids) do pcall(show, id) end -- one that is damaged is not shown
return reply
