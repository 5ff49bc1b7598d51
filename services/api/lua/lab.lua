#!lua flags=no-writes
-- ARGV: tenant, lab, most. "none", or "ok", when it was made, 1 when there are more files, then name, "sha256 md5 size" of each.
local lab = P .. 'lab:' .. ARGV[1] .. ':' .. ARGV[2]
local made, most = call('HGET', lab, ''), tonumber(ARGV[3])
if not made then return {'none'} end
local more = call('HLEN', lab) - 1 > most
local reply = {'ok', made, more and '1' or '0'}
for i, s in ipairs(more and call('HRANDFIELD', lab, most + 1, 'WITHVALUES') or call('HGETALL', lab)) do
  reply[3 + i] = s
end
return reply
