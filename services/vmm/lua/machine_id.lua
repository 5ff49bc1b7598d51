#!lua flags=allow-oom
-- ARGV: how many. That many machine ids in 1000..9999; they wrap, as Tango's did.
local n = tonumber(ARGV[1])
if not n or n < 1 or n > 100 then return {'range'} end
local last = call('HINCRBY', P .. 'meta', 'mid_next', n)
local reply = {'ok'}
for i = last - n, last - 1 do reply[#reply + 1] = tostring(1000 + i % 9000) end
return reply
