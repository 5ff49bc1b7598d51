#!lua flags=allow-oom
-- ARGV: fence, now, most, hold ms, delay ms. "ok", the next due time or "", then for each callback that is due an array: id, body,
-- sha256 of the feedback, tries. Each is due again after `hold`: who dies while delivering it only delays it. The first one waits until
-- `delay` after its job was accepted, by two clocks; if they disagree, for `delay` at most.
if not leads(ARGV[1]) then return {'deposed'} end
local now, hold, delay = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local key = P .. 'outbox'
local reply = {'ok', ''}
for _, id in ipairs(call('ZRANGEBYSCORE', key, '-inf', ARGV[2], 'LIMIT', 0, tonumber(ARGV[3]))) do
  local ob = P .. 'ob:' .. id
  local h = call('HMGET', P .. 'j:' .. id, 'at', 'fd')
  local body = call('GET', P .. 'b:' .. id)
  local wait = (tonumber(h[1] or 0) or 0) + delay - now
  if not body or not h[2] then
    call('ZREM', key, id)
    call('DEL', ob)
  elseif wait > 0 and call('HSETNX', ob, 'held', 1) == 1 then
    call('ZADD', key, string.format('%d', now + math.min(wait, delay)), id)
  else
    call('ZADD', key, string.format('%d', now + hold), id)
    reply[#reply + 1] = {id, body, h[2], call('HGET', ob, 'tries') or '0'}
  end
end
local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
reply[2] = first[2] or ''
return reply
