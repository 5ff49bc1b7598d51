#!lua flags=allow-oom
-- ARGV: fence, now, most, longest delay, oldest allowed accepted time, offset among those that are older.
-- What has waited long enough goes back to its queue. "ok", next offset, then reason, id of each job that is to be closed:
-- "poison" (it keeps losing its workers), "nobody" (its body is gone), "age". Those stay where they are until `close`, and are told
-- again, so that nothing is forgotten by a dispatcher that dies in between. Two clocks that disagree can not make a delay
-- longer than the longest.
if not leads(ARGV[1]) then return {'deposed'} end
local now, most, offset = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[6])
local AGAIN = 30000
local delay = P .. 'delay'
local reply = {'ok', '0'}
local function close(why, id)
  reply[#reply + 1] = why
  reply[#reply + 1] = id
end
local last = string.format('%d', now + math.max(tonumber(ARGV[4]), 2 * AGAIN))
for _, id in ipairs(call('ZRANGEBYSCORE', delay, '(' .. last, '+inf', 'LIMIT', 0, most)) do
  call('ZADD', delay, last, id)
end
for _, id in ipairs(call('ZRANGEBYSCORE', delay, '-inf', ARGV[2], 'LIMIT', 0, most)) do
  local h = call('HMGET', P .. 'j:' .. id, 's', 'k')
  if h[1] ~= 'q' then
    call('ZREM', delay, id)
  elseif (tonumber(h[2] or 0) or 0) >= POISON then
    call('ZADD', delay, string.format('%d', now + AGAIN), id)
    close('poison', id)
  elseif call('EXISTS', P .. 'b:' .. id) == 0 then
    call('ZADD', delay, string.format('%d', now + AGAIN), id)
    close('nobody', id)
  else
    call('ZREM', delay, id)
    enqueue(id)
  end
end
local old = call('ZRANGEBYSCORE', P .. 'alive', '-inf', ARGV[5], 'LIMIT', offset, most)
local kept = 0
for _, id in ipairs(old) do
  if call('HGET', P .. 'j:' .. id, 's') == 'q' then close('age', id) else kept = kept + 1 end
end
if #old == most then reply[2] = string.format('%d', offset + kept) end
return reply
