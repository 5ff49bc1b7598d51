#!lua flags=no-writes
-- ARGV: image or "". "none", or "ok", then of each: name, digests (spaces), build's text or "", last use or "", then vmms that have it.
local names, known = {}, {}
local function add(name)
  if not known[name] then
    known[name] = {}
    names[#names + 1] = name
  end
end
if ARGV[1] == '' then
  for _, name in ipairs(call('HKEYS', P .. 'img')) do add(name) end
  for _, name in ipairs(call('HKEYS', P .. 'build')) do add(name) end
else
  if call('HEXISTS', P .. 'img', ARGV[1]) + call('HEXISTS', P .. 'build', ARGV[1]) == 0 then return {'none'} end
  add(ARGV[1])
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
table.sort(names)
local reply = {'ok'}
for _, name in ipairs(names) do
  local e = {name, call('HGET', P .. 'img', name) or '', call('HGET', P .. 'build', name) or '', call('HGET', P .. 'used', name) or ''}
  for _, v in ipairs(known[name]) do e[#e + 1] = v end
  reply[#reply + 1] = e
end
return reply
