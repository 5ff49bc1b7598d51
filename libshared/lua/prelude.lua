-- Shared by every script. KEYS[1] is the key prefix; a script checks everything before its first write, since
-- a script that fails half-way is not rolled back.
local P = KEYS[1] .. ':'
local call = redis.call

-- A job under which so many workers were lost is not given to another one: the dispatcher closes it.
local POISON = 3
-- Lines kept of a trace; a job that goes back and forth loses old ones.
local TRACE_MAX = 400

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

local function trace(id, now, code, arg)
  local key = P .. 't:' .. id
  local len = call('RPUSH', key, code .. ' ' .. now .. ' ' .. (arg or ''))
  if len > TRACE_MAX then call('LTRIM', key, -TRACE_MAX, -1) end
end

-- Into its place's queue, in order of class, then age. `pl` is the number of the placement.
local function enqueue(id)
  local h = call('HMGET', P .. 'j:' .. id, 'pl', 'cl')
  call('ZADD', P .. 'q:' .. h[1], (tonumber(h[2]) or 4) * 4294967296 + tonumber(id), id)
  call('SADD', P .. 'places', h[1])
end

local function unqueue(id)
  local pl = call('HGET', P .. 'j:' .. id, 'pl')
  call('ZREM', P .. 'q:' .. pl, id)
  call('ZREM', P .. 'delay', id)
  if call('EXISTS', P .. 'q:' .. pl) == 0 then call('SREM', P .. 'places', pl) end
end

-- Takes an attempt away from its vmm; what it streamed is void. The next attempt has a new token.
local function detach(id)
  local v = call('HGET', P .. 'j:' .. id, 'v')
  if v then call('HDEL', P .. 'vmm:' .. v .. ':run', id) end
  call('HDEL', P .. 'j:' .. id, 'v', 't', 'm', 'mn')
  call('DEL', P .. 'o:' .. id)
end

-- Back to the queue at once (due == 0) or at wall time `due`. One that keeps losing its workers goes to `delay` in any
-- case, where the dispatcher finds it before any other worker gets it.
local function requeue(id, now, due, code, arg)
  detach(id)
  local j = P .. 'j:' .. id
  call('HSET', j, 's', 'q')
  trace(id, now, code, arg)
  if tonumber(due) == 0 and (tonumber(call('HGET', j, 'k') or 0) or 0) >= POISON then due = now end
  if tonumber(due) > 0 then call('ZADD', P .. 'delay', due, id) else enqueue(id) end
  call('HINCRBY', P .. 'stats', 'job_retries', 1)
  wake()
end

-- The one way to a final state: feedback is in the store by now (sha, size), then the state, then the callback.
-- Keeps v, m, mn of the last attempt for the lists.
local function finish(id, now, verdict, sha, size, msg)
  local j = P .. 'j:' .. id
  local h = call('HMGET', j, 'te', 'la', 'of', 'v', 's', 'cb')
  if h[5] == 'q' then unqueue(id) end
  if h[4] then call('HDEL', P .. 'vmm:' .. h[4] .. ':run', id) end
  call('HSET', j, 's', 'f', 'x', verdict, 'fd', sha, 'fs', size, 'ft', now)
  call('HDEL', j, 't')
  call('DEL', P .. 'o:' .. id)
  trace(id, now, 'final', msg)
  call('HSET', P .. 'res:' .. h[1] .. ':' .. h[2], h[3], id .. ' ' .. sha .. ' ' .. size)
  call('ZREM', P .. 'live:' .. h[1], id)
  call('ZREM', P .. 'alive', id)
  call('ZADD', P .. 'dead:' .. h[1], id, id)
  call('ZADD', P .. 'dead', now, id)
  call('HINCRBY', P .. 'stats', 'v_' .. verdict, 1)
  if h[6] then
    call('ZADD', P .. 'outbox', now, id)
    call('HSET', P .. 'ob:' .. id, 'tries', 0)
  end
  wake()
end
