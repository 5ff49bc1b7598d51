#!lua flags=allow-oom
-- ARGV: fence, now, most, hold ms, delay ms, 1: what was handed out is due again. "ok", the next due time or "", then for each
-- callback that is due an array: id, body, sha256 of the feedback (empty when they are gone), tries, verdict, when it finished. Each is due again after
-- `hold`: who dies while delivering it only delays it. The first one waits until `delay` after its job was accepted, by two clocks; if they disagree, for `delay` at most. Who has just begun to lead, or lost the
-- answer to an earlier look, does not wait for `hold`: he knows what he has in hand, and nobody else has to deliver it.
local MOST_AGAIN = 10000
if not leads(ARGV[1]) then return {'deposed'} end
local now, hold, delay = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local key = P .. 'outbox'
local reply = {'ok', ''}
if ARGV[6] == '1' then
  local last = string.format('%d', now + hold)
  for _, id in ipairs(call('ZRANGEBYSCORE', key, '(' .. ARGV[2], last, 'LIMIT', 0, MOST_AGAIN)) do
    if call('HEXISTS', P .. 'ob:' .. id, 'out') == 1 then call('ZADD', key, ARGV[2], id) end
  end
end
for _, id in ipairs(call('ZRANGEBYSCORE', key, '-inf', ARGV[2], 'LIMIT', 0, tonumber(ARGV[3]))) do
  local ob = P .. 'ob:' .. id
  local ok, h = pcall(call, 'HMGET', P .. 'j:' .. id, 'at', 'fd', 'x', 'ft')
  if not ok or not h then h = {} end
  local body
  ok, body = pcall(call, 'GET', P .. 'b:' .. id)
  if not ok then body = nil end
  local wait = (tonumber(h[1] or 0) or 0) + delay - now
  if wait > 0 and call('HSETNX', ob, 'held', 1) == 1 then
    call('ZADD', key, string.format('%d', now + math.min(wait, delay)), id)
  else
    call('ZADD', key, string.format('%d', now + hold), id)
    call('HSET', ob, 'out', 1)
    reply[#reply + 1] = {id, body or '', h[2] or '', call('HGET', ob, 'tries') or '0', h[3] or '', h[4] or ''}
  end
end
local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
reply[2] = first[2] or ''
return reply
