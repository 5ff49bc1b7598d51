#!lua flags=no-writes
-- ARGV: tenant, most. "ok", 1 when there may be more, then id, state, tries, last, due of each. Looks at no more than 5000 of the outbox.
local reply, most = {'ok', '0'}, tonumber(ARGV[2])
local function add(...)
  if #reply - 2 < most then reply[#reply + 1] = {...} else reply[2] = '1' end
end
local list = call('ZRANGE', P .. 'outbox', 0, 4999, 'WITHSCORES')
if #list == 10000 then reply[2] = '1' end
for i = 1, #list, 2 do
  local id = list[i]
  if call('HGET', P .. 'j:' .. id, 'te') == ARGV[1] then
    local ob = call('HMGET', P .. 'ob:' .. id, 'tries', 'last')
    add(id, 'pending', ob[1] or '0', ob[2] or '', list[i + 1])
  end
end
for _, id in ipairs(call('ZREVRANGE', P .. 'dead:' .. ARGV[1], 0, 1999)) do
  local h = call('HMGET', P .. 'j:' .. id, 'cs', 'cy')
  if h[1] == 'failed' then add(id, 'failed', '0', h[2] or '', '') end
end
return reply
