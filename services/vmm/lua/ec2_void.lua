#!lua flags=allow-oom
-- ARGV: scope, run_id, leader, holder, its beat.
-- A holder has stood still for too long: nobody claims what it had, which is paid for until it has ended.
local key = P .. 'ec2:' .. ARGV[1]
local h = call('HMGET', key, 'run_id', 'lead')
if h[1] ~= ARGV[2] or h[2] ~= ARGV[3] then return {'deposed'} end
if call('HGET', key .. ':beats', ARGV[4]) ~= ARGV[5] then return {'moved'} end
local flat = call('HGETALL', key .. ':claims')
for i = 1, #flat, 2 do
  local cost, holder = string.match(flat[i + 1], '^(%d+) (.*)$')
  if holder == ARGV[4] then call('HSET', key .. ':claims', flat[i], cost .. ' -') end
end
call('HDEL', key .. ':beats', ARGV[4])
return {'ok'}
