#!lua flags=no-writes
-- ARGV: fence, 1 for everything or 0 for what changes from job to job, most heads of a queue, most placements.
-- "ok", meta (run id, gen, id_next, id_limit), the next due time in `delay` or "", vmms, placements with a queue, wishes, used.
-- A vmm: name, epoch, beat, state, slots, drain, body, how many run, labels, 1 when a job runs there alone, then if everything was
-- asked for its images and wants. A placement: number, length, then id, score of its heads: as many as may find a slot. Cost is by vmms and
-- placements, never by the jobs that wait.
if not leads(ARGV[1]) then return {'deposed'} end
local all, most = ARGV[2] == '1', tonumber(ARGV[3])
local meta = call('HMGET', P .. 'meta', 'run_id', 'gen', 'id_next', 'id_limit')
for i = 1, 4 do meta[i] = meta[i] or '' end
local due = call('ZRANGE', P .. 'delay', 0, 0, 'WITHSCORES')
local vmms, free = {}, 0
for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
  local key = P .. 'vmm:' .. v
  local h = call('HMGET', key, 'epoch', 'beat', 'state', 'slots', 'drain', 'body', 'labels')
  local e = {v}
  for i = 1, 6 do e[i + 1] = h[i] or '' end
  local run = call('HLEN', key .. ':run')
  local solo = run > 0 and has_solo(key)
  e[8], e[9], e[10] = string.format('%d', run), h[7] or '', solo and '1' or '0'
  if h[3] == 'up' and h[5] ~= '1' and not solo then free = free + math.max(0, (tonumber(h[4]) or 0) - run) end
  if all then e[11], e[12] = call('HGETALL', key .. ':img'), call('HGETALL', key .. ':want') end
  vmms[#vmms + 1] = e
end
local places = {}
most = math.min(most, free)
if all or most > 0 then
  local numbers
  if call('SCARD', P .. 'places') > tonumber(ARGV[4]) then
    numbers = call('SRANDMEMBER', P .. 'places', tonumber(ARGV[4])) -- others have their turn in another pass
  else
    numbers = call('SMEMBERS', P .. 'places')
  end
  for _, n in ipairs(numbers) do
    local q = P .. 'q:' .. n
    local e = {n, string.format('%d', call('ZCARD', q))}
    if most > 0 then
      for _, s in ipairs(call('ZRANGE', q, 0, most - 1, 'WITHSCORES')) do e[#e + 1] = s end
    end
    places[#places + 1] = e
  end
end
return {'ok', meta, due[2] or '', vmms, places, all and call('HGETALL', P .. 'wish') or {},
  all and call('HGETALL', P .. 'used') or {}}
