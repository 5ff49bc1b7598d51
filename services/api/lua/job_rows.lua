#!lua flags=no-writes
-- ARGV: tenant, id or "", cursor or "", most rows, states as letters or "", verdict or "", lab or "", most looked at.
-- With an id that job, with its trace: "none", or "ok" and a row. Without: "ok", the next cursor or "", then rows, newest first. A row:
-- id, body, trace, then the fields F of its hash, length of its output so far, tries and last word and due time of its callback.
local F = {'s', 'x', 'n', 'c', 'v', 'm', 'mn', 'at', 'ft', 'st', 'fd', 'fs', 'fo', 'cx', 'lt', 'rq', 'cb', 'cs', 'cy', 'us'}
local tenant = ARGV[1]
local function row(id, full)
  local r = {id, call('GET', P .. 'b:' .. id) or '', full and call('LRANGE', P .. 't:' .. id, 0, -1) or {}}
  for _, v in ipairs(call('HMGET', P .. 'j:' .. id, unpack(F))) do r[#r + 1] = v or '' end
  local ob = call('HMGET', P .. 'ob:' .. id, 'tries', 'last')
  r[#r + 1] = tostring(call('STRLEN', P .. 'o:' .. id))
  r[#r + 1] = ob[1] or ''
  r[#r + 1] = ob[2] or ''
  r[#r + 1] = call('ZSCORE', P .. 'outbox', id) or ''
  return r
end
if ARGV[2] ~= '' then
  if call('HGET', P .. 'j:' .. ARGV[2], 'te') ~= tenant then return {'none'} end
  return {'ok', row(ARGV[2], true)}
end
local most, scan, states = tonumber(ARGV[4]), tonumber(ARGV[8]), ARGV[5]
local before = ARGV[3] == '' and '+inf' or '(' .. ARGV[3]
local function ids(key)
  return call('ZREVRANGEBYSCORE', P .. key .. ':' .. tenant, before, '-inf', 'LIMIT', 0, scan)
end
local want_live = states == '' or string.find(states, '[qaprc]')
local want_dead = states == '' or string.find(states, 'f')
local live, dead = want_live and ids('live') or {}, want_dead and ids('dead') or {}
-- bodies of one answer, of which each may have 256 KB; a page may be shorter than was asked for
local BYTES_MAX = 4194304
local reply = {'ok', ''}
local i, k, looked, last, bytes = 1, 1, 0, '', 0
while (live[i] or dead[k]) do
  if looked == scan or #reply - 2 == most or bytes >= BYTES_MAX then
    reply[2] = last
    break
  end
  local id
  if not dead[k] or (live[i] and tonumber(live[i]) > tonumber(dead[k])) then
    id, i = live[i], i + 1
  else
    id, k = dead[k], k + 1
  end
  last, looked = id, looked + 1
  local h = call('HMGET', P .. 'j:' .. id, 's', 'x', 'la')
  local good = h[1] and (states == '' or string.find(states, h[1], 1, true)) and (ARGV[6] == '' or h[2] == ARGV[6])
    and (ARGV[7] == '' or h[3] == ARGV[7])
  if good then
    local r = row(id, false)
    bytes = bytes + #r[2]
    reply[#reply + 1] = r
  end
end
-- what was looked at was all that one of the lists gave: there may be more behind it
if reply[2] == '' and (#live == scan or #dead == scan) then reply[2] = last end
return reply
