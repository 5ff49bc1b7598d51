#!lua flags=no-writes
-- ARGV: tenant, id. "none" (unknown, finished, another tenant's), "queued", "nomachine", or "ok" and the output so far.
local h = call('HMGET', P .. 'j:' .. ARGV[2], 'te', 's', 'm')
if h[1] ~= ARGV[1] or h[2] == 'f' then return {'none'} end
if h[2] == 'q' then return {'queued'} end
if not h[3] then return {'nomachine'} end
return {'ok', call('GET', P .. 'o:' .. ARGV[2]) or ''}
