#!lua flags=allow-oom
-- ARGV: fence, id, now, verdict, sha256 and size of the feedback, message. The end of a job that waits; "moved" when it does not.
-- One whose record is damaged, and so may have no state, waits while it is set aside.
if not leads(ARGV[1]) then return {'deposed'} end
local id = ARGV[2]
if flaw(id) and call('ZSCORE', P .. 'delay', id) then mend(id, ARGV[3]) end
if call('TYPE', P .. 'j:' .. id).ok ~= 'hash' or call('HGET', P .. 'j:' .. id, 's') ~= 'q' then return {'moved'} end
finish(id, ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
return {'ok'}
