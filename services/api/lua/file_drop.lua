#!lua flags=allow-oom
-- ARGV: tenant, lab, file.
if ARGV[3] == '' or call('HDEL', P .. 'lab:' .. ARGV[1] .. ':' .. ARGV[2], ARGV[3]) == 0 then return {'none'} end
return {'ok'}
