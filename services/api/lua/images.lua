#!lua flags=no-writes
-- ARGV: tenant, image or "". "none", or "ok", then of each that the tenant sees: name, digests (spaces), build's text or "", last use or "", 1 when all
-- share it, then vmms that have it.
local names, known = {}, {}
local function add(name)
  if not known[name] then
    known[name] = {}
    names[#names + 1] = name
  end
end
if ARGV[2] == '' then
  for _, key in ipairs({'img', 'build'}) do
    for _, name in ipairs(call('HKEYS', P .. key)) do
      if image_shown(ARGV[1], name) then add(name) end
    end
  end
else
  local own = own_image(ARGV[1], ARGV[2])
  local function there(name)
    return call('HEXISTS', P .. 'img', name) + call('HEXISTS', P .. 'build', name) > 0
  end
  local name = image_of(ARGV[1], ARGV[2])
  if not there(name) then name = own end -- one that was sent and is not taken in yet
  if not there(name) then return {'none'} end
  add(name)
end
local vmms = call('SMEMBERS', P .. 'vmms')
table.sort(vmms)
for _, v in ipairs(vmms) do
  if call('HGET', P .. 'vmm:' .. v, 'state') == 'up' then
    for _, name in ipairs(call('HKEYS', P .. 'vmm:' .. v .. ':img')) do
      if known[name] then known[name][#known[name] + 1] = v end
    end
  end
end
local shown = {}
for _, name in ipairs(names) do
  local is_own = string.find(name, TENANTS, 1, true)
  shown[#shown + 1] = {is_own and string.sub(name, is_own + #TENANTS) or name, name, is_own and '0' or '1'}
end
table.sort(shown, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[3] < b[3]) end)
local reply = {'ok'}
for _, s in ipairs(shown) do
  local name = s[2]
  local e = {s[1], call('HGET', P .. 'img', name) or '', call('HGET', P .. 'build', name) or '', call('HGET', P .. 'used', name) or '', s[3]}
  for _, v in ipairs(known[name]) do e[#e + 1] = v end
  reply[#reply + 1] = e
end
return reply
