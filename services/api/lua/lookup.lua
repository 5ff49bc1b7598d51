#!lua flags=no-writes
-- ARGV: tenant, lab, dup hex or "", image, then file names. What the check of an addJob needs: does the lab exist, is it
-- the same request again, the image's digests and full name, and "sha256 md5 size" of each file.
local lab = P .. 'lab:' .. ARGV[1] .. ':' .. ARGV[2]
local image = image_of(ARGV[1], ARGV[4])
local reply = {'ok', tostring(call('HEXISTS', lab, '')), '', call('HGET', P .. 'img', image) or '', image}
if ARGV[3] ~= '' then reply[3] = call('GET', P .. 'dup:' .. ARGV[3]) or '' end -- "id" or "id digest"
if #ARGV > 4 then
  for _, v in ipairs(call('HMGET', lab, unpack(ARGV, 5))) do reply[#reply + 1] = v or '' end
end
return reply
