#!lua flags=allow-oom
-- ARGV: tenant, lab. The lab's list of files goes; jobs name content, not names.
if call('DEL', P .. 'lab:' .. ARGV[1] .. ':' .. ARGV[2]) == 0 then return {'none'} end
call('ZREM', P .. 'labs', ARGV[1] .. ':' .. ARGV[2])
return {'ok'}
