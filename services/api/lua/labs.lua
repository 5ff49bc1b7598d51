#!lua flags=no-writes
-- ARGV: tenant, most. "ok", 1 when there are more, then names.
local reply = {'ok', '0'}
local all = call('SMEMBERS', P .. 'labs:' .. ARGV[1])
for _, name in ipairs(all) do
  if #reply - 2 == tonumber(ARGV[2]) then
    reply[2] = '1'
    break
  end
  reply[#reply + 1] = name
end
return reply
