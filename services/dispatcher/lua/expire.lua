#!lua flags=allow-oom
-- ARGV: fence, now, slice, then the most of them and the oldest time that is kept of: labs, rejected jobs, callbacks, builds,
-- placements without a live job. The oldest go, a slice of each in a run. "ok", 1 when there may be more, then kind, name of what
-- is worth telling.
-- A lab of the last hour stays in any case: what `open` has told of it is a promise. The build of an image that is there stays.
if not leads(ARGV[1]) then return {'deposed'} end
local now, slice = tonumber(ARGV[2]), tonumber(ARGV[3])
local reply, more = {'ok', '0'}, false
local function each(at, key, fn)
  local names = surplus(P .. key, tonumber(ARGV[at]), tonumber(ARGV[at + 1]), slice)
  for i, name in ipairs(names) do
    if not fn(name) then return end
    if i == slice then more = true end
  end
end
local function tell(kind, name)
  reply[#reply + 1] = kind
  reply[#reply + 1] = name
end

each(4, 'labs', function(name)
  if tonumber(call('ZSCORE', P .. 'labs', name)) > now - 3600000 then return false end
  call('UNLINK', P .. 'lab:' .. name)
  call('ZREM', P .. 'labs', name)
  tell('lab', name)
  return true
end)
each(6, 'rejected', function(id)
  forget(id)
  call('ZREM', P .. 'rejected', id)
  return true
end)
each(8, 'outbox_at', function(id)
  call('ZREM', P .. 'outbox_at', id)
  if call('ZREM', P .. 'outbox', id) == 0 then return true end
  local j, ob = P .. 'j:' .. id, P .. 'ob:' .. id
  if call('TYPE', j).ok == 'hash' then call('HSET', j, 'cs', 'failed', 'cy', 'given up, it waited for too long') end
  call('DEL', ob)
  call('HINCRBY', P .. 'stats', 'callbacks_failed', 1)
  tell('callback', id)
  return true
end)
local many = call('ZCARD', P .. 'builds_at') > tonumber(ARGV[10])
each(10, 'builds_at', function(name)
  if not many and call('HEXISTS', P .. 'img', name) == 1 then
    call('ZADD', P .. 'builds_at', ARGV[2], name)
    return true
  end
  call('HDEL', P .. 'build', name)
  call('SREM', P .. 'built', name)
  call('ZREM', P .. 'builds_at', name)
  tell('build', name)
  return true
end)
each(12, 'plfree', function(n)
  call('ZREM', P .. 'plfree', n)
  if call('HEXISTS', P .. 'plc', n) == 1 then return true end
  local text = call('HGET', P .. 'pln', n)
  if text then call('HDEL', P .. 'pl', text) end
  call('HDEL', P .. 'pln', n)
  return true
end)
if more then reply[2] = '1' end
return reply
