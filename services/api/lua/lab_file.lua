#!lua flags=no-writes
-- ARGV: tenant, lab, file. "ok", does the lab exist, "sha256 md5 size" or "".
local lab = P .. 'lab:' .. ARGV[1] .. ':' .. ARGV[2]
return {'ok', tostring(call('HEXISTS', lab, '')), call('HGET', lab, ARGV[3]) or ''}
