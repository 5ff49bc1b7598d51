#!lua flags=allow-oom
-- ARGV: vmm, epoch, hosts: a line for each, name, tab, why it is not used; nothing after the tab while it is.
local key = P .. 'vmm:' .. ARGV[1]
local h = call('HMGET', key, 'epoch', 'state')
if h[1] ~= ARGV[2] or h[2] ~= 'up' then return {'stale'} end
call('HSET', key, 'hosts', ARGV[3])
return {'ok'}
