#!lua
-- ARGV: run id, now, tenant, lab, output file, class, placement text, has callback 0/1, dup hex or "", dup ms, most live jobs, body, most
-- bytes of live bodies, digest of the request or "", id of the job that it repeats or "". "moved": the image is another by now.
-- One accepted job: its id, body and state, and its place in the queue.
if call('HGET', P .. 'meta', 'run_id') ~= ARGV[1] then return {'stale'} end
local dup = ARGV[9] ~= '' and P .. 'dup:' .. ARGV[9]
if dup then
  local same = call('GET', dup)
  if same then return {'dup', string.match(same, '^%d+'), string.match(same, ' (.*)$') or ''} end
end
-- How fast there is room again.
local function every()
  return string.format('%.0f', math.ceil(pace(ARGV[2]) or 0))
end
if call('ZCARD', P .. 'alive') >= tonumber(ARGV[11]) then return {'full', 'jobs', every()} end
local bytes = tonumber(call('HGET', P .. 'meta', 'live_bytes') or 0) or 0
if bytes + #ARGV[12] > tonumber(ARGV[13]) then return {'full', 'bytes', every()} end
-- An image that was given another content since it was looked up, and of which the old one is not kept: to be looked up again.
local name, pinned = string.match(ARGV[7], '^([^\n]*)\n([^\n]*)')
local now_there = name and call('HGET', P .. 'img', name)
if now_there and pinned ~= '' then
  local there = {}
  for digest in string.gmatch(now_there, '%S+') do there[digest] = true end
  local any = false
  for digest in string.gmatch(pinned, '[^,]+') do
    any = any or there[digest] or call('HEXISTS', P .. 'img', kept_image(digest)) == 1
  end
  if not any then return {'moved'} end
end
local id, why = next_id(ARGV[1])
if not id then return {why} end
local now, tenant = ARGV[2], ARGV[3]
local pl = placement(ARGV[7])
place_take(pl)
call('HSET', P .. 'j:' .. id, 's', 'q', 'te', tenant, 'la', ARGV[4], 'of', ARGV[5], 'pl', pl, 'cl', ARGV[6], 'at', now,
  'st', string.format('%.0f', clock()))
if (ARGV[15] or '') ~= '' then call('HSET', P .. 'j:' .. id, 'rq', ARGV[15]) end
if ARGV[8] == '1' then call('HSET', P .. 'j:' .. id, 'cb', 1) end
call('SET', P .. 'b:' .. id, ARGV[12])
room('live_bytes', #ARGV[12])
lab_used(tenant, ARGV[4], now)
call('ZADD', P .. 'alive', now, id)
call('ZADD', P .. 'live:' .. tenant, id, id)
enqueue(id)
if dup then call('SET', dup, (ARGV[14] or '') == '' and id or id .. ' ' .. ARGV[14], 'PX', ARGV[10]) end
call('HINCRBY', P .. 'stats', 'job_requests', 1)
tell_job(id, 'accepted')
wake()
return {'ok', id}
