#!lua
-- ARGV: tenant, lab, file, "sha256 md5 size", most files of a lab, now. The bytes are in the store by now.
local lab = P .. 'lab:' .. ARGV[1] .. ':' .. ARGV[2]
if call('HEXISTS', lab, '') == 0 then return {'nolab'} end
if call('HLEN', lab) > tonumber(ARGV[5]) and call('HEXISTS', lab, ARGV[3]) == 0 then return {'full'} end
lab_used(ARGV[1], ARGV[2], ARGV[6])
call('HSET', lab, ARGV[3], ARGV[4])
return {'ok'}
