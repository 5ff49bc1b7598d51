#!lua flags=allow-oom
-- ARGV: vmm, 1 or 0, reason. An operator's drain, which outlives the vmm's own (`own`), and its end. "none", "ok".
local key = P .. 'vmm:' .. ARGV[1]
if call('SISMEMBER', P .. 'vmms', ARGV[1]) == 0 then return {'none'} end
local h = call('HMGET', key, 'drain', 'why', 'own')
local by_operator = h[1] == '1' and h[2] and string.sub(h[2], 1, 8) == 'operator'
if ARGV[2] == '1' then
  call('HSET', key, 'drain', '1', 'why', ARGV[3] == '' and 'operator' or 'operator: ' .. ARGV[3])
  tell_vmm(ARGV[1], 'drain')
elseif by_operator then
  local own = h[3] or ''
  call('HSET', key, 'drain', own == '' and '0' or '1', 'why', own)
  tell_vmm(ARGV[1], own == '' and 'resume' or 'drain')
  wake()
end
return {'ok'}
