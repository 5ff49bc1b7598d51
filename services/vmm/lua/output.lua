-- ARGV: id, token, offset, bytes. The offset makes it safe to send again what may have arrived; "ok" and the length that
-- is there now, from which the vmm goes on. Without allow-oom on purpose: a full Redis may refuse the live view, which
-- the vmm sends again later and which no state hangs on.
local id, token = ARGV[1], ARGV[2]
if not holds(id, token) then return {'fenced'} end
local key = P .. 'o:' .. id
local at, len = tonumber(ARGV[3]), call('STRLEN', key)
if at and at <= len then
  len = call('SETRANGE', key, at, ARGV[4])
  call('PUBLISH', key, 'o' .. token .. ' ' .. ARGV[3] .. ' ' .. ARGV[4]) -- to whoever watches it
end
return {'ok', tostring(len)}
