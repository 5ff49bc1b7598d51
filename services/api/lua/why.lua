#!lua flags=no-writes
-- ARGV: tenant, id, now. "none", or "ok", s, class, placement text, position among all or "", position in its placement or "", due time or
-- "", k, cx or "", ms from the end of one job to that of the next (0: unknown), its body when the placement is forgotten (of a finished job), then of each vmm: name, state, drain, slots, running, labels, digests that it
-- has of the image's (commas), newest body version.
local id = ARGV[2]
local h = call('HMGET', P .. 'j:' .. id, 'te', 's', 'cl', 'pl', 'k', 'cx')
if h[1] ~= ARGV[1] then return {'none'} end
local text = h[4] and call('HGET', P .. 'pln', h[4]) or ''
local reply = {'ok', h[2] or '', h[3] or '4', text, '', '', '', h[5] or '0', h[6] or '',
  string.format('%.3f', pace(ARGV[3]) or 0), text == '' and call('GET', P .. 'b:' .. id) or ''}
if h[2] == 'q' and h[4] then
  local q = P .. 'q:' .. h[4]
  local rank, score = call('ZRANK', q, id), call('ZSCORE', q, id)
  if rank then
    local before = 0
    for _, n in ipairs(call('SMEMBERS', P .. 'places')) do
      before = before + call('ZCOUNT', P .. 'q:' .. n, '-inf', '(' .. score)
    end
    reply[5], reply[6] = tostring(before), tostring(rank)
  end
  reply[7] = call('ZSCORE', P .. 'delay', id) or ''
end
local vmms = call('SMEMBERS', P .. 'vmms')
table.sort(vmms)
for _, v in ipairs(vmms) do
  local key = P .. 'vmm:' .. v
  local e = call('HMGET', key, 'state', 'drain', 'slots', 'labels', 'body')
  for i = 1, 5 do e[i] = e[i] or '' end
  local digests = {}
  for _, name in ipairs(call('HKEYS', key .. ':img')) do digests[#digests + 1] = call('HGET', key .. ':img', name) end
  reply[#reply + 1] = {v, e[1], e[2], e[3], tostring(call('HLEN', key .. ':run')), e[4], table.concat(digests, ','), e[5]}
end
return reply
