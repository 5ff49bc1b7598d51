#!lua flags=allow-oom
-- ARGV: vmm, epoch, then names of images that the vmm keeps though they lost their names (kept.milonga.invalid/DIGEST). "ok", then those that no live
-- job needs: from now on nobody can be given one of them here.
local key = P .. 'vmm:' .. ARGV[1]
local h = call('HMGET', key, 'epoch', 'state')
if h[1] ~= ARGV[2] or h[2] ~= 'up' then return {'stale'} end
local needed = {}
for _, n in ipairs(call('HKEYS', P .. 'plc')) do
  local digests = string.match(call('HGET', P .. 'pln', n) or '', '^[^\n]*\n([^\n]*)') or ''
  for digest in string.gmatch(digests, '[^,]+') do needed[kept_image(digest)] = true end
end
local reply, gone = {'ok'}, {}
for i = 3, #ARGV do
  if not needed[ARGV[i]] then
    reply[#reply + 1] = ARGV[i]
    gone[ARGV[i]] = true
    call('HDEL', key .. ':img', ARGV[i])
  end
end
catalogue(gone)
return reply
