#!lua flags=allow-oom
-- ARGV: fence, id, now, verdict, sha256 and size of the feedback, message. The end of a job that waits; "moved" when it does not.
if not leads(ARGV[1]) then return {'deposed'} end
if call('HGET', P .. 'j:' .. ARGV[2], 's') ~= 'q' then return {'moved'} end
finish(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
return {'ok'}
