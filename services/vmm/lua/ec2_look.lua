#!lua flags=allow-oom
-- ARGV: scope, run_id, holder, its beat, "holder beat" of a lead to be taken over or "", then token, cost of each of its claims.
-- The beat of a holder of instances, and its claims as it knows them: what was forgotten is there again. It leads when nobody
-- does, or when who led has stood still for too long. The leader is told of all holders and claims.
local key = P .. 'ec2:' .. ARGV[1]
local h = call('HMGET', key, 'run_id', 'id', 'serial', 'lead', 'lead_beat', 'go', 'trust', 'doubt')
if h[1] ~= ARGV[2] or not h[2] then return {'stale'} end
local me, beat = ARGV[3], ARGV[4]
if h[6] then -- a person has looked at it
  call('HSET', key, 'trust', (h[7] or '') .. ' ' .. (h[8] or ''))
  call('HDEL', key, 'go', 'still', 'doubt')
end
for i = 6, #ARGV - 1, 2 do call('HSET', key .. ':claims', ARGV[i], ARGV[i + 1] .. ' ' .. me) end
call('HSET', key .. ':beats', me, beat)
local lead = h[4] or ''
if lead == '' or lead == me or (ARGV[5] ~= '' and lead .. ' ' .. (h[5] or '') == ARGV[5]) then
  call('HSET', key, 'lead', me, 'lead_beat', beat)
  lead = me
end
local g = call('HMGET', key, 'lead_beat', 'still', 'trust')
local reply = {'ok', h[2], h[3] or '0', lead, g[1] or '', g[2] or '', g[3] or ''}
if lead ~= me then return reply end
for kind, hash in pairs({h = ':beats', c = ':claims'}) do
  local flat = call('HGETALL', key .. hash)
  for i = 1, #flat, 2 do
    reply[#reply + 1] = kind
    reply[#reply + 1] = flat[i]
    reply[#reply + 1] = flat[i + 1]
  end
end
return reply
