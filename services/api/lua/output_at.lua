#!lua flags=no-writes
-- ARGV: tenant, id, from, most bytes. "none"; "live", token or "", bytes that are there, those from `from` on; or "over", token of whose
-- output it is or "", sha256 and size of the feedback, where in it the output begins or "", verdict.
local h = call('HMGET', P .. 'j:' .. ARGV[2], 'te', 's', 't', 'fd', 'fs', 'fo', 'x', 'lt')
if h[1] ~= ARGV[1] then return {'none'} end
if h[2] == 'f' then return {'over', h[8] or '', h[4] or '', h[5] or '0', h[6] or '', h[7] or ''} end
local key = P .. 'o:' .. ARGV[2]
local from = tonumber(ARGV[3])
local bytes = tonumber(ARGV[4]) > 0 and call('GETRANGE', key, from, from + tonumber(ARGV[4]) - 1) or ''
return {'live', h[3] or '', tostring(call('STRLEN', key)), bytes}
