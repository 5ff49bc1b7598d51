#!lua flags=allow-oom
-- ARGV: scope, holder. It ends; what it still claims nobody does from here on.
local key = P .. 'ec2:' .. ARGV[1]
local flat = call('HGETALL', key .. ':claims')
for i = 1, #flat, 2 do
  local cost, holder = string.match(flat[i + 1], '^(%d+) (.*)$')
  if holder == ARGV[2] then call('HSET', key .. ':claims', flat[i], cost .. ' -') end
end
call('HDEL', key .. ':beats', ARGV[2])
if call('HGET', key, 'lead') == ARGV[2] then call('HDEL', key, 'lead', 'lead_beat') end
return {'ok'}
