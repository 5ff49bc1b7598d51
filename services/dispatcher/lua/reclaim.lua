#!lua flags=allow-oom
-- ARGV: fence, vmm, epoch and beat that were unchanged for too long, now. Judges a vmm lost, if it has said nothing
-- since: what it had goes back to the queue. "ok" and how many; or "moved".
if not leads(ARGV[1]) then return {'deposed'} end
local key = P .. 'vmm:' .. ARGV[2]
local h = call('HMGET', key, 'epoch', 'beat', 'state')
if h[3] ~= 'up' or h[1] ~= ARGV[3] or (h[2] or '') ~= ARGV[4] then return {'moved'} end
local had = lose(ARGV[2], ARGV[5])
call('HSET', key, 'state', 'lost')
call('PUBLISH', P .. 'pools', ARGV[2])
tell_vmm(ARGV[2], 'lost')
wake()
return {'ok', string.format('%d', had)}
