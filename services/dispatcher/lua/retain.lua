#!lua flags=allow-oom
-- ARGV: fence, now, most dead jobs, oldest finished time that is kept, slice, offset of the first that is looked at.
-- Forgets dead jobs by count and age, oldest first, but none of the last minute and none with a callback to deliver. "ok",
-- how many went, next offset, 1 when there may be more.
if not leads(ARGV[1]) then return {'deposed'} end
local dead, outbox = P .. 'dead', P .. 'outbox'
local slice, offset = tonumber(ARGV[5]), tonumber(ARGV[6])
local excess = call('ZCARD', dead) - tonumber(ARGV[3])
local oldest, recent = tonumber(ARGV[4]), tonumber(ARGV[2]) - 60000
local went, kept, ended = 0, 0, false
local function forget(id)
  local h = call('HMGET', P .. 'j:' .. id, 'te', 'la', 'of')
  if h[1] then call('ZREM', P .. 'dead:' .. h[1], id) end
  if h[1] and h[2] and h[3] then
    local res = P .. 'res:' .. h[1] .. ':' .. h[2]
    local now = call('HGET', res, h[3])
    if now and string.sub(now, 1, #id + 1) == id .. ' ' then call('HDEL', res, h[3]) end
  end
  call('DEL', P .. 'j:' .. id, P .. 'b:' .. id, P .. 't:' .. id, P .. 'o:' .. id, P .. 'ob:' .. id)
  call('ZREM', dead, id)
end
local list = call('ZRANGE', dead, offset, offset + slice - 1, 'WITHSCORES')
for i = 1, #list, 2 do
  local at = tonumber(list[i + 1])
  if at > recent or (offset + (i + 1) / 2 > excess and at >= oldest) then
    ended = true
    break
  end
  if call('ZSCORE', outbox, list[i]) then
    kept = kept + 1
  else
    forget(list[i])
    went = went + 1
  end
end
local more = not ended and #list == 2 * slice
return {'ok', string.format('%d', went), string.format('%d', more and offset + kept or 0), more and '1' or '0'}
