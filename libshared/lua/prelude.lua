-- Shared by every script. KEYS[1] is the key prefix; a script checks everything before its first write, since
-- a script that fails half-way is not rolled back.
local P = KEYS[1] .. ':'
local call = redis.call

-- What a lost worker means. A job that ran alone on it is charged (`k`); of several that ran together each is a suspect
-- (`su`), and one that lost SUSPECT workers runs alone from then on: so only the culprit ever comes to POISON, where
-- the dispatcher closes it. The wait before the next try is LOST_BASE_MS, twice as long each time, with jitter.
local POISON, SUSPECT = 3, 2
local LOST_BASE_MS, LOST_CAP_MS = 100, 30000
-- Lines kept of a trace; a job that goes back and forth loses old ones.
local TRACE_MAX = 400
-- The text of a placement (docs/protocol.md) whose jobs run alone has this form.
local ALONE = '^[^\n]*\n[^\n]*\n[^\n]*\n[^\n]*\nalone$'

-- Redis's own clock, for what people look at; nothing hangs on it.
local function clock()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Watchers hear of it at once, and can read it again in the stream for a while.
local EVENTS_MAX = 10000
local function tell(text)
  local eid = call('XADD', P .. 'ev', 'MAXLEN', '~', EVENTS_MAX, '*', 'e', text)
  call('PUBLISH', P .. 'ev', eid .. ' ' .. text)
end

local function tell_job(id, step)
  local h = call('HMGET', P .. 'j:' .. id, 'te', 's', 'n', 'x')
  tell(string.format('job %s %s %s %s %s %.0f %s', h[1] or '-', id, h[2] or '-', h[3] or '0', h[4] or '-', clock(), step))
end

local function tell_vmm(v, what)
  tell(string.format('vmm %s %.0f %s', what, clock(), v))
end

-- How long jobs were in a state: counts in `hist`, of each state how many, their sum, and how many took at most so long.
local SPENT_MS = {10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000, 300000, 1000000, 3600000}
local function spent(what, ms)
  ms = math.max(0, ms)
  local key = P .. 'hist'
  call('HINCRBY', key, what .. ':n', 1)
  call('HINCRBY', key, what .. ':sum', string.format('%.0f', ms))
  for _, most in ipairs(SPENT_MS) do
    if ms <= most then
      call('HINCRBY', key, what .. ':' .. string.format('%d', most), 1)
      break
    end
  end
end

-- A job's next state; `st` is since when.
local function enter(id, state)
  local j = P .. 'j:' .. id
  local h = call('HMGET', j, 's', 'st')
  local now = clock()
  if h[1] and tonumber(h[2] or '') then spent(h[1], now - tonumber(h[2])) end
  call('HSET', j, 's', state, 'st', string.format('%.0f', now))
end

local function wake() -- the dispatcher looks again
  call('PUBLISH', P .. 'wake', '')
end

-- Is this still the active dispatcher? `fence` is "epoch@holder": the holder is in it because a Redis that came back
-- older may give an epoch a second time. The first check of every script of the dispatcher.
local function leads(fence)
  local h = call('HMGET', P .. 'lead', 'epoch', 'holder')
  return h[1] and h[2] and h[2] ~= '' and h[1] .. '@' .. h[2] == fence
end

-- Is `token` that of a live attempt at `id`? The fence of every write of a worker.
local function holds(id, token)
  local h = call('HMGET', P .. 'j:' .. id, 't', 's')
  return h[1] == token and h[2] ~= 'f' and h[2] ~= 'q'
end

-- The next id of the block id_next <= id < id_limit, which the caller gives out in this very run; or nil and why not.
local function next_id(run_id)
  local m = call('HMGET', P .. 'meta', 'run_id', 'id_next', 'id_limit')
  if m[1] ~= run_id then return nil, 'stale' end
  local id, limit = tonumber(m[2]), tonumber(m[3])
  if not id or not limit or id >= limit then
    wake()
    return nil, 'ids'
  end
  call('HSET', P .. 'meta', 'id_next', string.format('%d', id + 1))
  return string.format('%d', id)
end

local function trace(id, now, code, arg)
  local key = P .. 't:' .. id
  local len = call('RPUSH', key, code .. ' ' .. now .. ' ' .. (arg or ''))
  if len > TRACE_MAX then call('LTRIM', key, -TRACE_MAX, -1) end
end

-- The vmms look at what images are wished, and which are kept.
local function tell_builds()
  for _, v in ipairs(call('SMEMBERS', P .. 'vmms')) do
    if call('HGET', P .. 'vmm:' .. v, 'state') == 'up' then call('PUBLISH', P .. 'v:' .. v, 'b') end
  end
end

-- ---- damaged records: one never stops the others ----

-- What each live job has, then its counters.
local FIELDS, NEEDED = {'s', 'te', 'la', 'of', 'at', 'pl', 'cl', 'n', 'c', 'k', 'su'}, 6

-- nil, or what is wrong with the record of a live job.
local function flaw(id)
  local state, body = call('TYPE', P .. 'j:' .. id).ok, call('TYPE', P .. 'b:' .. id).ok
  if state ~= 'hash' then return 'its state is gone, or a ' .. state end
  if body ~= 'string' then return 'its body is gone, or a ' .. body end
  local lines = call('TYPE', P .. 't:' .. id).ok
  if lines ~= 'list' and lines ~= 'none' then return 'its trace is a ' .. lines end
  local h = call('HMGET', P .. 'j:' .. id, unpack(FIELDS))
  for i, f in ipairs(FIELDS) do
    if i <= NEEDED and not h[i] then return 'its state has no ' .. f end
    if i > NEEDED and h[i] and not string.match(h[i], '^%d+$') then return 'its ' .. f .. ' is no number' end
  end
  if call('HEXISTS', P .. 'pln', h[6]) == 0 then return 'placement ' .. h[6] .. ' is not known' end
  return nil
end

-- Aside, for `due` to tell of it until it is closed.
local function apart(id, why)
  call('HSET', P .. 'broken', id, string.sub(why, 1, 200))
  call('ZADD', P .. 'delay', 1, id)
end

-- For an entry that names no attempt: when that is because its record is damaged, the job is not to be forgotten.
local function apart_if_damaged(id)
  local wrong = call('ZSCORE', P .. 'alive', id) and flaw(id)
  if wrong then apart(id, wrong) end
end

-- Does it neither wait nor run? Only damage makes that.
local function is_adrift(id)
  local h = call('HMGET', P .. 'j:' .. id, 's', 'v')
  if h[1] == 'q' or h[1] == 'f' then return false end
  return not h[1] or not h[2] or call('HEXISTS', P .. 'vmm:' .. h[2] .. ':run', id) == 0
end

-- fn(id, ...) for one record of many; one that is damaged goes aside.
local function guard(fn, id, ...)
  local ok, e = pcall(fn, id, ...)
  if ok then return e end
  apart(id, type(e) == 'table' and tostring(e.err) or tostring(e))
  return nil
end

-- Makes of a damaged record one that can be ended like any other.
local function mend(id, now)
  local j, b = P .. 'j:' .. id, P .. 'b:' .. id
  if call('TYPE', j).ok ~= 'hash' then call('DEL', j) end
  if call('TYPE', b).ok ~= 'string' then call('DEL', b) end
  if call('TYPE', P .. 't:' .. id).ok ~= 'list' then call('DEL', P .. 't:' .. id) end
  call('HDEL', j, 'cl', 'n', 'c', 'k', 'su')
  local ok, body = pcall(cmsgpack.unpack, call('GET', b) or '')
  if not ok or type(body) ~= 'table' then body = {} end
  local function set(field, value)
    if type(value) == 'string' then call('HSETNX', j, field, value) end
  end
  set('te', body[1])
  set('la', body[2])
  set('of', body[4])
  set('cb', body[9] and '1')
  set('at', now)
  set('s', 'q')
end

-- ---- names of images ----

-- Whose an image is stands in its full name (libshared/base/image_name.h); all keys have full names.
local TENANTS, KEPT = '.tenant.milonga.invalid/', 'kept.milonga.invalid/'
local function own_image(tenant, name)
  return (string.gsub(tenant, '_', 'U')) .. TENANTS .. name
end
local function kept_image(digest)
  return KEPT .. (string.gsub(digest, ':', '-'))
end

-- The full name of what a tenant means by a name: its own, once there is or was one, else the one that all share. What it
-- sends anew under that name, and whether that can be taken in, changes nothing of it (`built`): its jobs never run in another.
local function image_of(tenant, name)
  local own = own_image(tenant, name)
  if call('HEXISTS', P .. 'img', own) == 1 then return own end
  local build = call('HGET', P .. 'build', own)
  if not build then return name end
  return (string.sub(build, 1, 5) == 'done ' or call('SISMEMBER', P .. 'built', own) == 1) and own or name
end

-- The name by which a tenant has a full name, or nil: it is another's, or one that all share behind its own.
local function image_shown(tenant, full)
  local whose, name = string.match(full, '^([0-9a-zU]+)%.tenant%.milonga%.invalid/(.+)$')
  if whose then return full == own_image(tenant, name) and name or nil end
  if string.sub(full, 1, #KEPT) == KEPT then return nil end
  return image_of(tenant, full) == full and full or nil
end

-- A list of full name, value, ... as a tenant sees it.
local function images_shown(tenant, list)
  local shown = {}
  for i = 1, #list, 2 do
    local name = image_shown(tenant, list[i])
    if name then
      shown[#shown + 1] = name
      shown[#shown + 1] = list[i + 1]
    end
  end
  return shown
end

-- ---- placements and queues ----

-- The number of a placement.
local function placement(text)
  local n = call('HGET', P .. 'pl', text)
  if not n then
    n = string.format('%d', call('HINCRBY', P .. 'meta', 'pl_next', 1))
    call('HSET', P .. 'pl', text, n)
    call('HSET', P .. 'pln', n, text)
  end
  return n
end

-- One live job more or less has it; one without any is forgotten by `tidy`, some time later.
local function place_take(n)
  call('HINCRBY', P .. 'plc', n, 1)
  call('ZREM', P .. 'plfree', n)
end
local function place_drop(n, now)
  if call('HINCRBY', P .. 'plc', n, -1) > 0 then return end
  call('HDEL', P .. 'plc', n)
  call('ZADD', P .. 'plfree', now, n)
  for digest in string.gmatch(string.match(call('HGET', P .. 'pln', n) or '', '^[^\n]*\n([^\n]*)') or '', '[^,]+') do
    if call('HEXISTS', P .. 'img', kept_image(digest)) == 1 then
      tell_builds() -- perhaps nobody needs it any more
      return
    end
  end
end

-- Into its place's queue, in order of class, then age. `pl` is the number of the placement.
local function enqueue(id)
  local h = call('HMGET', P .. 'j:' .. id, 'pl', 'cl')
  if not h[1] then
    apart(id, 'its state has no pl')
    return
  end
  call('ZADD', P .. 'q:' .. h[1], (tonumber(h[2]) or 4) * 4294967296 + tonumber(id), id)
  call('SADD', P .. 'places', h[1])
end

local function unqueue(id)
  local pl = call('HGET', P .. 'j:' .. id, 'pl')
  call('ZREM', P .. 'delay', id)
  if not pl then return end
  call('ZREM', P .. 'q:' .. pl, id)
  if call('EXISTS', P .. 'q:' .. pl) == 0 then call('SREM', P .. 'places', pl) end
end

-- ---- what takes room ----

-- Bytes of the bodies of live and of dead jobs: `live_bytes` is bounded where jobs are accepted, `dead_bytes` by `retain`.
local function room(field, bytes)
  return call('HINCRBY', P .. 'meta', field, string.format('%d', bytes))
end

-- Milliseconds from the end of one job to that of the next, or nil when none has ended lately. Counted since the oldest live job came, at most five
-- minutes back: a time in which there was nothing to do says nothing about how long a wait is.
local function pace(now)
  local oldest = call('ZRANGE', P .. 'alive', 0, 0, 'WITHSCORES')[2]
  local busy = math.max(1, math.min(300000, oldest and now - oldest or 300000))
  for _, window in ipairs({busy, 300000}) do
    local ended = call('ZCOUNT', P .. 'dead', now - window, '+inf')
    if ended > 0 then return window / ended end
  end
end

-- A job that is dead, or whose record is damaged, and everything of it.
local function forget(id)
  local j, b = P .. 'j:' .. id, P .. 'b:' .. id
  local h = call('TYPE', j).ok == 'hash' and call('HMGET', j, 'te', 'la', 'of') or {}
  if h[1] then call('ZREM', P .. 'dead:' .. h[1], id) end
  if h[1] and h[2] and h[3] then
    local res = P .. 'res:' .. h[1] .. ':' .. h[2]
    local now = call('HGET', res, h[3])
    if now and string.sub(now, 1, #id + 1) == id .. ' ' then call('HDEL', res, h[3]) end
  end
  if call('TYPE', b).ok == 'string' then room('dead_bytes', -call('STRLEN', b)) end
  call('DEL', j, b, P .. 't:' .. id, P .. 'o:' .. id, P .. 'ob:' .. id)
  call('ZREM', P .. 'dead', id)
end

-- The oldest of a zset by time that are too many or older than `oldest`, at most `slice`: their names.
local function surplus(key, most, oldest, slice)
  local over = math.min(slice, call('ZCARD', key) - most)
  local names, list = {}, call('ZRANGE', key, 0, slice - 1, 'WITHSCORES')
  for i = 1, #list, 2 do
    if #names >= over and tonumber(list[i + 1]) >= oldest then break end
    names[#names + 1] = list[i]
  end
  return names
end

-- A lab was opened, filled or used just now; one that is not for long is forgotten.
local function lab_used(tenant, lab, now)
  call('ZADD', P .. 'labs', now, tenant .. ':' .. lab)
end

-- The catalogue `img` is what was last seen anywhere: for each of `names` what the vmms that are up have, else what those
-- that are away had (their jobs wait for them), else nothing.
local function catalogue(names)
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
end

-- From now on it has a worker for itself: the same placement, but alone.
local function isolate(id, now)
  local j = P .. 'j:' .. id
  local old = call('HGET', j, 'pl')
  local text = old and call('HGET', P .. 'pln', old)
  if not text or string.match(text, ALONE) then return end
  local _, lines = string.gsub(text, '\n', '')
  local n = placement(text .. string.rep('\n', 4 - lines) .. 'alone')
  call('HSET', j, 'pl', n)
  place_take(n)
  place_drop(old, now)
end

-- Does a job run on that vmm which wants it for itself?
local function has_solo(key)
  local solo = call('HGET', key, 'solo')
  return solo and call('HEXISTS', key .. ':run', solo) == 1
end

-- ---- back to the queue ----

-- Takes an attempt away from its vmm; what it streamed is void. The next attempt has a new token.
local function detach(id)
  local v = call('HGET', P .. 'j:' .. id, 'v')
  if v then call('HDEL', P .. 'vmm:' .. v .. ':run', id) end
  call('HDEL', P .. 'j:' .. id, 'v', 't', 'm', 'mn')
  call('DEL', P .. 'o:' .. id)
end

-- Back to the queue at once (due == 0) or at wall time `due`. One that keeps losing its workers goes to `delay` in any
-- case, where the dispatcher finds it before any other worker gets it; so does one that was cancelled meanwhile.
local function requeue(id, now, due, code, arg)
  detach(id)
  local j = P .. 'j:' .. id
  enter(id, 'q')
  trace(id, now, code, arg)
  local h = call('HMGET', j, 'k', 'cx')
  if (tonumber(h[1] or 0) or 0) >= POISON then due = now end
  if h[2] then due = now end -- cancelled while its worker was lost: the dispatcher closes it
  if tonumber(due) > 0 then call('ZADD', P .. 'delay', due, id) else enqueue(id) end
  call('HINCRBY', P .. 'stats', 'job_retries', 1)
  tell_job(id, code)
  wake()
end

-- When a job goes on that has lost so many workers.
local function lost_due(id, now, times)
  local wait = math.min(LOST_CAP_MS, LOST_BASE_MS * 2 ^ math.min(times - 1, 10))
  local dice = tonumber(string.sub(redis.sha1hex(id .. ' ' .. now), 1, 6), 16) / 16777216
  return string.format('%d', tonumber(now) + wait * (0.5 + dice))
end

-- A vmm's life is over without a word: what it had goes back to the queue; how many that were. When its end was wished
-- (it was draining, for an operator or to stop) no job is to blame.
local function lose(v, now)
  local key = P .. 'vmm:' .. v
  local h = call('HMGET', key, 'drain', 'why')
  local why = h[2] or ''
  local wished = h[1] == '1' and (why == 'stopping' or string.sub(why, 1, 8) == 'operator')
  local run, had, begun = call('HGETALL', key .. ':run'), {}, 0
  for i = 1, #run, 2 do
    local id, token = run[i], run[i + 1]
    if guard(holds, id, token) then
      had[#had + 1] = id
      if call('HGET', P .. 'j:' .. id, 's') ~= 'a' then begun = begun + 1 end
    else
      apart_if_damaged(id)
    end
  end
  local function back(id)
    local j = P .. 'j:' .. id
    local due = 0
    if not wished and call('HGET', j, 's') ~= 'a' then
      call('HINCRBY', j, begun == 1 and 'k' or 'su', 1)
      local h = call('HMGET', j, 'k', 'su')
      local times = (tonumber(h[1]) or 0) + (tonumber(h[2]) or 0)
      if times >= SUSPECT then isolate(id, now) end
      due = lost_due(id, now, times)
    end
    requeue(id, now, due, 'lost', v)
  end
  for _, id in ipairs(had) do guard(back, id) end
  call('DEL', key .. ':run', key .. ':pool')
  return #had
end

-- ---- the end ----

-- The one way to a final state: feedback is in the store by now (sha, size), then the state, then the callback.
-- Keeps v, m, mn of the last attempt for the lists. Of several jobs with one output name the newest has the result.
local function finish(id, now, verdict, sha, size, msg)
  local j = P .. 'j:' .. id
  if flaw(id) then mend(id, now) end
  local h = call('HMGET', j, 'te', 'la', 'of', 'v', 's', 'cb', 'pl', 'at', 't')
  if h[5] == 'q' then unqueue(id) end
  if h[4] then call('HDEL', P .. 'vmm:' .. h[4] .. ':run', id) end
  if h[7] then place_drop(h[7], now) end
  local bytes = call('STRLEN', P .. 'b:' .. id)
  room('live_bytes', -bytes)
  room('dead_bytes', bytes)
  enter(id, 'f')
  spent('total', clock() - (tonumber(h[8]) or clock()))
  call('HSET', j, 'x', verdict, 'fd', sha, 'fs', size, 'ft', now)
  if h[9] then call('HSET', j, 'lt', h[9]) end -- whose output it is
  call('HDEL', j, 't')
  call('DEL', P .. 'o:' .. id)
  call('HDEL', P .. 'broken', id)
  trace(id, now, 'final', msg)
  if h[1] and h[2] and h[3] then
    local res = P .. 'res:' .. h[1] .. ':' .. h[2]
    local other = tonumber(string.match(call('HGET', res, h[3]) or '', '^%d+'))
    if not other or other <= tonumber(id) then call('HSET', res, h[3], id .. ' ' .. sha .. ' ' .. size) end
  end
  if h[1] then
    call('ZREM', P .. 'live:' .. h[1], id)
    call('ZADD', P .. 'dead:' .. h[1], id, id)
  end
  call('ZREM', P .. 'alive', id)
  if call('EXISTS', P .. 'alive') == 0 then call('HSET', P .. 'meta', 'live_bytes', 0) end -- whatever damage made of it
  call('ZADD', P .. 'dead', now, id)
  call('HINCRBY', P .. 'stats', 'v_' .. verdict, 1)
  if h[6] then
    call('ZADD', P .. 'outbox', now, id)
    call('ZADD', P .. 'outbox_at', now, id)
    call('HSET', P .. 'ob:' .. id, 'tries', 0)
  end
  tell_job(id, 'final')
  call('PUBLISH', P .. 'o:' .. id, 'f')
  wake()
end
