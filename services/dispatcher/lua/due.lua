#!lua flags=allow-oom
-- ARGV: fence, now, most, longest delay, oldest allowed accepted time, offset among those that are older.
-- What has waited long enough goes back to its queue. "ok", next offset, then why, id and a detail of each job that is to be
-- closed: "cancel" (it was cancelled, and then its worker was lost), "poison" (it keeps losing its workers), "broken" (its
-- record is damaged), "age". Those stay where they are until `close`, and are told again, so that nothing is forgotten by a
-- dispatcher that dies in between. Two clocks that disagree can not make a delay longer than the longest.
if not leads(ARGV[1]) then return {'deposed'} end
local now, most, offset = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[6])
local AGAIN = 30000
local delay = P .. 'delay'
local reply = {'ok', '0'}
local function close(why, id, detail)
  reply[#reply + 1] = why
  reply[#reply + 1] = id
  reply[#reply + 1] = detail or ''
end
local function later(id)
  call('ZADD', delay, string.format('%d', now + AGAIN), id)
end
local last = string.format('%d', now + math.max(tonumber(ARGV[4]), 2 * AGAIN))
for _, id in ipairs(call('ZRANGEBYSCORE', delay, '(' .. last, '+inf', 'LIMIT', 0, most)) do
  call('ZADD', delay, last, id)
end

local function look(id)
  local wrong = flaw(id)
  local j = P .. 'j:' .. id
  local sound = call('TYPE', j).ok == 'hash'
  local h = sound and call('HMGET', j, 's', 'k', 'cx') or {}
  if h[1] and h[1] ~= 'q' then
    if not is_adrift(id) then
      call('ZREM', delay, id)
      return
    end
    call('HSET', j, 's', 'q') -- for `close`
    wrong = wrong or 'it is nowhere'
  end
  if h[3] and not wrong then
    later(id)
    close('cancel', id, '')
  elseif wrong or call('HEXISTS', P .. 'broken', id) == 1 then
    later(id)
    close('broken', id, wrong or call('HGET', P .. 'broken', id))
  elseif (tonumber(h[2] or 0) or 0) >= POISON then
    later(id)
    close('poison', id, h[2])
  else
    call('ZREM', delay, id)
    enqueue(id)
  end
end
for _, id in ipairs(call('ZRANGEBYSCORE', delay, '-inf', ARGV[2], 'LIMIT', 0, most)) do
  if not guard(function(x) look(x) return true end, id) then later(id) end
end

-- Of those over age some run.
local function runs(id)
  local s = call('HGET', P .. 'j:' .. id, 's')
  if s == 'q' then
    close('age', id)
  elseif s == 'f' then
    call('ZREM', P .. 'alive', id)
  elseif is_adrift(id) then
    apart(id, 'it is nowhere')
  else
    return true
  end
end
local old = call('ZRANGEBYSCORE', P .. 'alive', '-inf', ARGV[5], 'LIMIT', offset, most)
local kept = 0
for _, id in ipairs(old) do
  if guard(runs, id) then kept = kept + 1 end
end
if #old == most then reply[2] = string.format('%d', offset + kept) end
return reply
