#!lua
-- ARGV: full name of the image, sha256 of the archive, now, most images that its tenant may have. "full", or "ok", the build's text and how many
-- vmms are up. The same wish again is the same wish, until it failed or the image is gone again.
local whose = string.match(ARGV[1], '^[0-9a-zU]+%.tenant%.milonga%.invalid/')
if whose and call('HEXISTS', P .. 'build', ARGV[1]) == 0 then
  local ct = 0
  for _, name in ipairs(call('HKEYS', P .. 'build')) do
    if string.sub(name, 1, #whose) == whose then ct = ct + 1 end
  end
  if ct >= tonumber(ARGV[4]) then return {'full'} end
end
local now = call('HGET', P .. 'build', ARGV[1])
local state, sha
if now then state, sha = string.match(now, '^(%S+) (%S+)') end
local same = sha == ARGV[2] and (state == 'wanted' or (state == 'done' and call('HEXISTS', P .. 'img', ARGV[1]) == 1))
if not same then
  if whose and (state == 'done' or call('HEXISTS', P .. 'img', ARGV[1]) == 1) then call('SADD', P .. 'built', ARGV[1]) end
  now = 'wanted ' .. ARGV[2] .. ' '
  call('HSET', P .. 'build', ARGV[1], now)
  call('HDEL', P .. 'drop', ARGV[1])
  tell(string.format('image wanted %.0f %s', clock(), ARGV[1]))
end
call('ZADD', P .. 'builds_at', ARGV[3], ARGV[1])
local up = 0
for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
  if call('HGET', P .. 'vmm:' .. v, 'state') == 'up' then up = up + 1 end
end
if not same or state == 'wanted' then tell_builds() end
return {'ok', now, tostring(up)}
