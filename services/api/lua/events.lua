#!lua flags=no-writes
-- ARGV: id of the last event that is known or "", most. "ok", the last id there is, 1 when some were lost since that one, then id, text of
-- those behind it; without one, none.
local key = P .. 'ev'
local last = call('XREVRANGE', key, '+', '-', 'COUNT', 1)
local reply = {'ok', last[1] and last[1][1] or '0-0', '0'}
if ARGV[1] == '' then return reply end
if ARGV[1] ~= '0-0' and #call('XRANGE', key, ARGV[1], ARGV[1]) == 0 then reply[3] = '1' end
for _, e in ipairs(call('XRANGE', key, '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
  reply[#reply + 1] = e[1] .. ' ' .. e[2][2]
end
return reply
