#!lua flags=allow-oom
-- ARGV: fence. The active dispatcher ends in good order: the standby, told by the message, takes over at once.
if not leads(ARGV[1]) then return {'deposed'} end
call('HSET', P .. 'lead', 'holder', '')
call('PUBLISH', P .. 'wake', 'lead')
return {'ok'}
