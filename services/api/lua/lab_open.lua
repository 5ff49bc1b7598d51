#!lua
-- ARGV: tenant, lab, now, most names in the answer, most labs, used since when a lab can not be
-- forgotten. Makes the lab unless it is there; "ok", 1 when made, then name, "sha256 md5 size"
-- of each file. Of a lab with more files than that, some: who is not told of a file uploads it again, and is told then.
-- "full" and in how many ms the one unused longest can be forgotten: there are as many labs as there may be, all of them in use.
local lab = P .. 'lab:' .. ARGV[1] .. ':' .. ARGV[2]
local most = tonumber(ARGV[4])
if call('EXISTS', lab) == 0 and call('ZCARD', P .. 'labs') >= tonumber(ARGV[5]) then
  local first = call('ZRANGE', P .. 'labs', 0, 0, 'WITHSCORES')
  if tonumber(first[2]) >= tonumber(ARGV[6]) then return {'full', string.format('%.0f', first[2] - ARGV[6] + 1)} end
  call('UNLINK', P .. 'lab:' .. first[1])
  call('ZREM', P .. 'labs', first[1])
end
lab_used(ARGV[1], ARGV[2], ARGV[3])
local made = call('HSETNX', lab, '', ARGV[3])
local reply = {'ok', tostring(made)}
local files = call('HLEN', lab) <= most and call('HGETALL', lab) or call('HRANDFIELD', lab, most, 'WITHVALUES')
for i = 1, #files, 2 do
  if files[i] ~= '' then
    reply[#reply + 1] = files[i]
    reply[#reply + 1] = files[i + 1]
  end
end
return reply
