-- ARGV: vmm, epoch, then name, digest of each image that its backend has.
-- The catalogue `img` is what was last seen anywhere: what the vmms that are up have, else what those that are away
-- had (their jobs wait for them), else nothing.
local v = ARGV[1]
local key = P .. 'vmm:' .. v
local h = call('HMGET', key, 'epoch', 'state')
if h[1] ~= ARGV[2] or h[2] ~= 'up' then return {'stale'} end
local names = {}
for _, name in ipairs(call('HKEYS', key .. ':img')) do names[name] = true end
call('DEL', key .. ':img')
for i = 3, #ARGV, 2 do
  names[ARGV[i]] = true
  call('HSET', key .. ':img', ARGV[i], ARGV[i + 1])
end
local up, away = {}, {}
local vmms = call('SMEMBERS', P .. 'vmms')
table.sort(vmms)
for _, w in ipairs(vmms) do
  local to = call('HGET', P .. 'vmm:' .. w, 'state') == 'up' and up or away
  to[#to + 1] = P .. 'vmm:' .. w .. ':img'
end
local function seen(hashes, name)
  local list, have = {}, {}
  for _, k in ipairs(hashes) do
    local d = call('HGET', k, name)
    if d and not have[d] then
      have[d] = true
      list[#list + 1] = d
    end
  end
  return table.concat(list, ' ')
end
for name in pairs(names) do
  local digests = seen(up, name)
  if digests == '' then digests = seen(away, name) end
  if digests == '' then
    call('HDEL', P .. 'img', name)
  else
    call('HSET', P .. 'img', name, digests)
  end
end
wake()
return {'ok'}
