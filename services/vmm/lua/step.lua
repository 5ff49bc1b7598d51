#!lua flags=allow-oom
-- ARGV: id, token, new state or "", then code, wall ms, arg of each line of the trace.
-- States only go forward: a line that was sent again after a lost answer does not take a job back.
local id, token, state = ARGV[1], ARGV[2], ARGV[3]
if not holds(id, token) then return {'fenced'} end
local order = {a = 1, p = 2, r = 3, c = 4}
local j = P .. 'j:' .. id
local old = call('HGET', j, 's')
if order[state] and order[state] > (order[old] or 9) then enter(id, state) end
for i = 4, #ARGV, 3 do
  trace(id, ARGV[i + 1], ARGV[i], ARGV[i + 2])
  if ARGV[i] == 'machine' then
    local m, name = string.match(ARGV[i + 2], '^(%d+) (.+)$')
    if m then call('HSET', j, 'm', m, 'mn', name) end
  end
end
tell_job(id, ARGV[#ARGV - 2 > 3 and #ARGV - 2 or 0] or '')
return {'ok'}
