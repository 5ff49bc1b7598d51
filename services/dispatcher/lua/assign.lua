#!lua flags=allow-oom
-- ARGV: fence, run id, now, then placement number, vmm, how many at most, ... in the order in which they are to go.
-- The heads of those queues to those vmms, as far as they still have room; each attempt gets its token here. allow-oom:
-- only jobs that run leave again. "ok", then id, vmm of each. A job whose body is gone is set aside for `due` to find.
if not leads(ARGV[1]) then return {'deposed'} end
local m = call('HMGET', P .. 'meta', 'run_id', 'gen')
if m[1] ~= ARGV[2] or not m[2] then return {'stale'} end
-- meta as this very server was initialised: after a restart that lost its last second, tokens wait for a new generation
if string.match(call('INFO', 'server'), 'run_id:(%x+)') ~= m[1] then return {'stale'} end
local now, gen = ARGV[3], m[2]
local reply = {'ok'}

local function assign(id, n, v)
  local j, body = P .. 'j:' .. id, call('GET', P .. 'b:' .. id)
  call('ZREM', P .. 'q:' .. n, id)
  if not body then
    call('ZADD', P .. 'delay', now, id)
    return
  end
  local try = call('HINCRBY', j, 'n', 1)
  local token = gen .. '.' .. string.format('%d', try)
  call('HSET', j, 's', 'a', 't', token, 'v', v)
  call('HSET', P .. 'vmm:' .. v .. ':run', id, token)
  trace(id, now, 'dispatched', string.format('%d', try - 1))
  local c = tonumber(call('HGET', j, 'c') or 0)
  call('PUBLISH', P .. 'v:' .. v, 'a' .. cmsgpack.pack({id, token, try, c, body}))
  reply[#reply + 1] = id
  reply[#reply + 1] = v
end

for i = 4, #ARGV, 3 do
  local n, v, most = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local key = P .. 'vmm:' .. v
  local h = call('HMGET', key, 'state', 'slots', 'drain')
  local room = math.min(most, (tonumber(h[2]) or 0) - call('HLEN', key .. ':run'))
  if h[1] == 'up' and h[3] ~= '1' and room > 0 then
    local text = call('HGET', P .. 'pln', n)
    if text then call('HSET', P .. 'used', string.match(text, '^[^\n]*'), now) end
    for _, id in ipairs(call('ZRANGE', P .. 'q:' .. n, 0, room - 1)) do
      if call('HGET', P .. 'j:' .. id, 's') == 'q' then
        assign(id, n, v)
      else
        call('ZREM', P .. 'q:' .. n, id)
      end
    end
  end
  if call('EXISTS', P .. 'q:' .. n) == 0 then call('SREM', P .. 'places', n) end
end
return reply
