#!lua flags=no-writes
-- ARGV: tenant, most. "ok", 1 when there are more, then names.
local reply, cursor, skip = {'ok', '0'}, '0', #ARGV[1] + 2
repeat
  local r = call('ZSCAN', P .. 'labs', cursor, 'MATCH', ARGV[1] .. ':*', 'COUNT', 1000)
  cursor = r[1]
  for i = 1, #r[2], 2 do
    if #reply - 2 == tonumber(ARGV[2]) then
      reply[2] = '1'
      return reply
    end
    reply[#reply + 1] = string.sub(r[2][i], skip)
  end
until cursor == '0'
return reply
