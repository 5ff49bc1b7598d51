#!lua flags=allow-oom
-- ARGV: fence, now, most dead jobs, oldest finished time that is kept, slice, offset of the first that is looked at, most bytes of
-- their bodies.
-- Forgets dead jobs by count, bytes and age, oldest first, but none of the last minute and none with a callback to deliver. "ok",
-- how many went, next offset, 1 when there may be more.
if not leads(ARGV[1]) then return {'deposed'} end
local dead, outbox = P .. 'dead', P .. 'outbox'
local slice, offset = tonumber(ARGV[5]), tonumber(ARGV[6])
local excess = call('ZCARD', dead) - tonumber(ARGV[3])
local oldest, recent = tonumber(ARGV[4]), tonumber(ARGV[2]) - 60000
local went, kept, ended = 0, 0, false
local list = call('ZRANGE', dead, offset, offset + slice - 1, 'WITHSCORES')
for i = 1, #list, 2 do
  local at = tonumber(list[i + 1])
  local heavy = (tonumber(call('HGET', P .. 'meta', 'dead_bytes') or 0) or 0) > tonumber(ARGV[7])
  if at > recent or (offset + (i + 1) / 2 > excess and at >= oldest and not heavy) then
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
if call('EXISTS', dead, P .. 'rejected') == 0 then call('HSET', P .. 'meta', 'dead_bytes', 0) end
local more = not ended and #list == 2 * slice
return {'ok', string.format('%d', went), string.format('%d', more and offset + kept or 0), more and '1' or '0'}
