#!lua flags=no-writes
-- ARGV: now. "ok", then live, delayed, dead, accepted time of the oldest live job or "", slots, busy, vmms that are up, idle machines,
-- finished in the last one and five minutes, callbacks that wait, then lists: queue lengths are summed into `queued`; live by state (s, n,
-- ...), counters (name, n, ...), times in states (name, n, ...), vmms (state, n, ...).
local now = tonumber(ARGV[1])
local oldest = call('ZRANGE', P .. 'alive', 0, 0, 'WITHSCORES')
local slots, busy, up, idle = 0, 0, 0, 0
local by, vmms = {a = 0, p = 0, r = 0, c = 0}, {up = 0, lost = 0, down = 0}
for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
  local key = P .. 'vmm:' .. v
  local h = call('HMGET', key, 'state', 'slots')
  if vmms[h[1]] then vmms[h[1]] = vmms[h[1]] + 1 end
  if h[1] == 'up' then
    up, slots = up + 1, slots + (tonumber(h[2]) or 0)
    local run = call('HKEYS', key .. ':run')
    busy = busy + #run
    for _, id in ipairs(run) do
      local s = call('HGET', P .. 'j:' .. id, 's')
      if by[s] then by[s] = by[s] + 1 end
    end
    for _, text in ipairs(call('HVALS', key .. ':pool')) do
      local free = string.match(text, ';(.*)$') or ''
      for _ in string.gmatch(free, '%d+') do idle = idle + 1 end
    end
  end
end
local queued = 0
for _, n in ipairs(call('SMEMBERS', P .. 'places')) do queued = queued + call('ZCARD', P .. 'q:' .. n) end
local live, delayed = call('ZCARD', P .. 'alive'), call('ZCARD', P .. 'delay')
local function n(x) return string.format('%.0f', x) end
return {'ok', n(live), n(delayed), n(call('ZCARD', P .. 'dead')), oldest[2] or '', n(slots), n(busy), n(up), n(idle),
  n(call('ZCOUNT', P .. 'dead', now - 60000, '+inf')), n(call('ZCOUNT', P .. 'dead', now - 300000, '+inf')),
  n(call('ZCARD', P .. 'outbox')), n(queued),
  {'q', n(queued + delayed), 'a', n(by.a), 'p', n(by.p), 'r', n(by.r), 'c', n(by.c)}, call('HGETALL', P .. 'stats'),
  call('HGETALL', P .. 'hist'), {'up', n(vmms.up), 'lost', n(vmms.lost), 'down', n(vmms.down)}}
