#!lua flags=no-writes
-- ARGV: fence, then ids. "ok", then of each job what holds files: the sha256 of its feedback or "", and its body while it lives or "".
if not leads(ARGV[1]) then return {'deposed'} end
local reply = {'ok'}
for i = 2, #ARGV do
  local h = call('HMGET', P .. 'j:' .. ARGV[i], 's', 'fd')
  reply[#reply + 1] = h[2] or ''
  reply[#reply + 1] = h[1] and h[1] ~= 'f' and call('GET', P .. 'b:' .. ARGV[i]) or ''
end
return reply
