#!lua flags=allow-oom
-- ARGV: holder, the epoch that it holds or "", epoch and beat that it has seen unchanged for too long or "" "".
-- "ok" epoch beat: it leads. "held" holder epoch beat: somebody else does. An empty holder was given up: free at once.
local key = P .. 'lead'
local h = call('HMGET', key, 'holder', 'epoch', 'beat')
local holder, epoch, beat = h[1] or '', h[2] or '0', h[3] or '0'
local function take()
  return {'ok', string.format('%d', call('HINCRBY', key, 'epoch', 1)), '1'}
end
if holder == ARGV[1] then
  -- another epoch than it knows: its take-over's answer was lost, or Redis came back older
  if epoch ~= ARGV[2] then return take() end
  return {'ok', epoch, string.format('%d', call('HINCRBY', key, 'beat', 1))}
end
if holder == '' or (ARGV[3] ~= '' and epoch == ARGV[3] and beat == ARGV[4]) then
  call('HSET', key, 'holder', ARGV[1], 'beat', 1)
  return take()
end
return {'held', holder, epoch, beat}
