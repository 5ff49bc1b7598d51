#!lua flags=allow-oom
-- ARGV: vmm, epoch, beat, now, then "id token" of each attempt that is held.
-- The beat of a vmm's lease, and the comparison of what it holds with what it should: "+" id token body n c for each that is
-- assigned to it but not held (its message was lost), "-" id token for each held one that is no longer its own, "x" id token for
-- each that is cancelled. One that was begun and is not held goes back to the queue.
local key = P .. 'vmm:' .. ARGV[1]
local h = call('HMGET', key, 'epoch', 'state', 'drain')
if h[1] ~= ARGV[2] or h[2] ~= 'up' then return {'stale'} end
local reply = {'ok', h[3] or '0'}
local function add(...)
  for _, s in ipairs({...}) do reply[#reply + 1] = s end
end
local run, held = {}, {}
local flat = call('HGETALL', key .. ':run')
local dead = {}
for i = 1, #flat, 2 do
  if guard(holds, flat[i], flat[i + 1]) then
    run[flat[i]] = flat[i + 1]
  else
    dead[#dead + 1] = flat[i]
  end
end
for i = 5, #ARGV do
  local id, token = string.match(ARGV[i], '^(%d+) (%S+)$')
  if id then
    if run[id] == token then held[id] = true else add('-', id, token) end
  end
end
for id, token in pairs(run) do
  local state = call('HGET', P .. 'j:' .. id, 's')
  if not held[id] and state ~= 'a' then
    -- It began this one, in this life, and knows of it no more: its end is in a past that Redis has lost (a failover, an older
    -- copy). What has run once does not run again under the same token.
    requeue(id, ARGV[4], '0', 'failed', 'Internal error: Redis has lost how this attempt ended')
  elseif not held[id] then
    local j = call('HMGET', P .. 'j:' .. id, 'n', 'c')
    add('+', id, token, call('GET', P .. 'b:' .. id) or '', j[1] or '0', j[2] or '0')
  end
end
for id, token in pairs(run) do
  if call('HEXISTS', P .. 'j:' .. id, 'cx') == 1 then add('x', id, token) end
end
call('HSET', key, 'beat', ARGV[3])
for _, id in ipairs(dead) do
  call('HDEL', key .. ':run', id)
  apart_if_damaged(id)
end
return reply
