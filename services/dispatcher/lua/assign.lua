#!lua flags=allow-oom
-- ARGV: fence, run id, now, then placement number, vmm, how many at most, ... in the order in which they are to go.
-- The heads of those queues to those vmms, as far as they still have room; each attempt gets its token here. allow-oom:
-- only jobs that run leave again. "ok", then id, vmm of each. A job with a damaged record is set aside for `due` to find; one that
-- is to run alone gets a vmm on which nothing runs, and nothing joins it there.
if not leads(ARGV[1]) then return {'deposed'} end
local m = call('HMGET', P .. 'meta', 'run_id', 'gen')
if m[1] ~= ARGV[2] or not m[2] then return {'stale'} end
-- meta as this very server was initialised: after a restart that lost its last second, tokens wait for a new generation
if string.match(call('INFO', 'server'), 'run_id:(%x+)') ~= m[1] then return {'stale'} end
local now, gen = ARGV[3], m[2]
local reply = {'ok'}

local function assign(id, n, v, alone)
  local j = P .. 'j:' .. id
  call('ZREM', P .. 'q:' .. n, id)
  local wrong = flaw(id)
  if wrong then
    apart(id, wrong)
    return
  end
  local h = call('HMGET', j, 's', 'pl', 'c')
  if h[1] ~= 'q' then return end
  if h[2] ~= n then
    enqueue(id)
    return
  end
  local try = call('HINCRBY', j, 'n', 1)
  local token = gen .. '.' .. string.format('%d', try)
  enter(id, 'a')
  call('HSET', j, 't', token, 'v', v)
  call('HSET', P .. 'vmm:' .. v .. ':run', id, token)
  if alone then call('HSET', P .. 'vmm:' .. v, 'solo', id) end
  trace(id, now, 'dispatched', string.format('%d', try - 1))
  -- with the vmm's epoch: two processes may have one name, of which one has not yet noticed that it is over with it
  local epoch = call('HGET', P .. 'vmm:' .. v, 'epoch') or ''
  call('PUBLISH', P .. 'v:' .. v,
    'a' .. cmsgpack.pack({id, token, try, tonumber(h[3]) or 0, call('GET', P .. 'b:' .. id), epoch}))
  tell_job(id, 'dispatched')
  reply[#reply + 1] = id
  reply[#reply + 1] = v
end

for i = 4, #ARGV, 3 do
  local n, v, most = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local key = P .. 'vmm:' .. v
  local h = call('HMGET', key, 'state', 'slots', 'drain')
  local text = call('HGET', P .. 'pln', n) or ''
  local alone = string.match(text, ALONE)
  local running = call('HLEN', key .. ':run')
  local room = math.min(most, (tonumber(h[2]) or 0) - running)
  if alone then room = running == 0 and math.min(room, 1) or 0 end
  if h[1] == 'up' and h[3] ~= '1' and room > 0 and not has_solo(key) then
    if text ~= '' then call('HSET', P .. 'used', string.match(text, '^[^\n]*'), now) end
    for _, id in ipairs(call('ZRANGE', P .. 'q:' .. n, 0, room - 1)) do guard(assign, id, n, v, alone) end
  end
  if call('EXISTS', P .. 'q:' .. n) == 0 then call('SREM', P .. 'places', n) end
end
return reply
