#!lua flags=no-writes
-- ARGV: tenant, vmm or "". "none", or "ok", then of each by name: name, state, drain, why, driver, slots, labels, version, gone_at,
-- how many run, images (name, digest, ...), pools (image, "total;free", ...), the tenant's jobs (id, machine id, machine name, image, ...),
-- machine ids of other tenants' jobs, "total;free" of each pool of theirs, hosts (vmm/lua/hosts.lua). All images as the tenant has them.
local names = ARGV[2] == '' and call('SMEMBERS', P .. 'vmms') or {ARGV[2]}
if ARGV[2] ~= '' and call('SISMEMBER', P .. 'vmms', ARGV[2]) == 0 then return {'none'} end
table.sort(names)
local reply = {'ok'}
for _, v in ipairs(names) do
  local key = P .. 'vmm:' .. v
  local e = {v}
  for _, s in ipairs(call('HMGET', key, 'state', 'drain', 'why', 'driver', 'slots', 'labels', 'version', 'gone_at')) do
    e[#e + 1] = s or ''
  end
  local mine, others = {}, {}
  local run = call('HKEYS', key .. ':run')
  e[10] = tostring(#run)
  for _, id in ipairs(run) do
    local h = call('HMGET', P .. 'j:' .. id, 'te', 'm', 'mn', 'pl')
    if h[1] == ARGV[1] then
      mine[#mine + 1] = id
      mine[#mine + 1] = h[2] or ''
      mine[#mine + 1] = h[3] or ''
      mine[#mine + 1] = string.match(h[4] and call('HGET', P .. 'pln', h[4]) or '', '^[^\n]*') -- its own, in full
    elseif h[2] then
      others[#others + 1] = h[2]
    end
  end
  local pools, theirs = call('HGETALL', key .. ':pool'), {}
  for i = 1, #pools, 2 do
    if not image_shown(ARGV[1], pools[i]) then theirs[#theirs + 1] = pools[i + 1] end
  end
  e[11], e[12], e[13], e[14] = images_shown(ARGV[1], call('HGETALL', key .. ':img')), images_shown(ARGV[1], pools), mine, others
  e[15], e[16] = theirs, call('HGET', key, 'hosts') or ''
  reply[#reply + 1] = e
end
return reply
