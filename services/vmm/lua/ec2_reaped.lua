#!lua flags=allow-oom
-- ARGV: scope, run_id, leader, what instances cost an hour that stand in no claim, then the tokens of void claims that are over.
local key = P .. 'ec2:' .. ARGV[1]
local h = call('HMGET', key, 'run_id', 'lead')
if h[1] ~= ARGV[2] or h[2] ~= ARGV[3] then return {'deposed'} end
call('HSET', key, 'strays', ARGV[4])
for i = 5, #ARGV do
  local holder = string.match(call('HGET', key .. ':claims', ARGV[i]) or '', ' (.*)$')
  if holder == '-' then call('HDEL', key .. ':claims', ARGV[i]) end
end
return {'ok'}
