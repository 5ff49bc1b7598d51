#!lua
-- ARGV: tenant, lab, now, most names in the answer. Makes the lab unless it is there; "ok", 1 when made, then name, "sha256 md5 size"
-- of each file. Of a lab with more files than that, some: who is not told of a file uploads it again, and is told then.
local lab = P .. 'lab:' .. ARGV[1] .. ':' .. ARGV[2]
local most = tonumber(ARGV[4])
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
