#!lua flags=allow-oom
-- ARGV: scope, holder, token or "?" and the random word of one. It is over with that instance, or there never was one.
local key = P .. 'ec2:' .. ARGV[1] .. ':claims'
local token = ARGV[3]
if string.sub(token, 1, 1) == '?' then
  local tail = '.' .. string.sub(token, 2)
  for _, t in ipairs(call('HKEYS', key)) do
    if string.sub(t, -#tail) == tail then token = t end
  end
end
local holder = string.match(call('HGET', key, token) or '', ' (.*)$')
if holder == ARGV[2] or holder == '-' then call('HDEL', key, token) end
return {'ok'}
