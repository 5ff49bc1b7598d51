#!lua flags=allow-oom
-- ARGV: scope, "" or for how many ms EC2 is not to be called, since it throttles. How long from now on, and how often it has
-- lately. Politeness only, so keys that expire will do.
local key = P .. 'ec2:' .. ARGV[1]
local ms = tonumber(ARGV[2])
local times = tonumber(call('GET', key .. ':throttled') or 0)
if ms then
  times = call('INCR', key .. ':throttled')
  call('PEXPIRE', key .. ':throttled', 60000)
  if call('PTTL', key .. ':quiet') < ms then call('SET', key .. ':quiet', '1', 'PX', string.format('%.0f', ms)) end
end
return {'ok', string.format('%.0f', math.max(0, call('PTTL', key .. ':quiet'))), string.format('%.0f', times)}
