#!lua flags=allow-oom
-- ARGV: scope, run_id, an id for a new ledger, then (ledger, serial) of instances that are there.
-- Told once on each server of Redis, before anything is claimed on it, and whenever instances are seen that make one doubt. An
-- instance that another ledger has numbered, or this one with a number that is still to come, says that the past was lost: then
-- nothing is ended that nobody claims, until a person says `go`.
local key = P .. 'ec2:' .. ARGV[1]
local h = call('HMGET', key, 'id', 'serial', 'trust', 'doubt')
local id, serial = h[1] or ARGV[3], tonumber(h[2] or 0) or 0
local known = ' ' .. id .. ' ' .. (h[3] or '') .. ' '
local doubt, still = h[4] or '', nil
for i = 4, #ARGV - 1, 2 do
  local ledger, n = ARGV[i], tonumber(ARGV[i + 1]) or 0
  if ledger == id and n > serial then
    serial = n
    still = 'Redis has come back older than instance number ' .. string.format('%.0f', n)
  elseif not string.find(known, ' ' .. ledger .. ' ', 1, true) then
    known = known .. ledger .. ' '
    if #doubt < 2000 then doubt = doubt .. ' ' .. ledger end
    still = 'Redis does not know who has asked for the instances of ledger ' .. ledger
  end
end
call('HSET', key, 'run_id', ARGV[2], 'id', id, 'serial', string.format('%.0f', serial))
if still then call('HSET', key, 'still', still, 'doubt', doubt) end
return {'ok', id, still or ''}
