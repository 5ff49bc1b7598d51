-- ARGV: scope, run_id, holder, random, cost an hour, ceiling (0: none).
-- A token for one instance, with what it costs reserved, before EC2 is asked for it. `ceiling` with what is reserved by now.
local key = P .. 'ec2:' .. ARGV[1]
local h = call('HMGET', key, 'run_id', 'id', 'strays')
if h[1] ~= ARGV[2] or not h[2] then return {'stale'} end
local cost, ceiling, sum = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(h[3] or 0) or 0
for _, value in ipairs(call('HVALS', key .. ':claims')) do sum = sum + (tonumber(string.match(value, '^%d+')) or 0) end
if ceiling > 0 and sum + cost > ceiling then return {'ceiling', string.format('%.0f', sum)} end
local serial = call('HINCRBY', key, 'serial', 1)
local token = 'm1.' .. h[2] .. '.' .. string.format('%.0f', serial) .. '.' .. ARGV[4]
call('HSET', key .. ':claims', token, ARGV[5] .. ' ' .. ARGV[3])
return {'ok', token, string.format('%.0f', sum + cost)}
