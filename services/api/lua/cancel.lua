#!lua flags=allow-oom
-- ARGV: tenant, id, now, then sha256 and size of its feedback, or "" "", and message. A queued job is finished, for which its feedback
-- must be there: without one "queued" and its body. One that a vmm has is marked, and the vmm is told; it kills the job and commits.
-- "none", "done" (it is finished as cancelled), "over" (as something else), "marked".
local id, now = ARGV[2], ARGV[3]
local j = P .. 'j:' .. id
local h = call('HMGET', j, 'te', 's', 'x', 'v', 't', 'cx')
if h[1] ~= ARGV[1] then return {'none'} end
if h[2] == 'f' then return {h[3] == 'cancelled' and 'done' or 'over'} end
if h[2] == 'q' then
  if ARGV[4] == '' then return {'queued', call('GET', P .. 'b:' .. id) or ''} end
  call('HSET', j, 'cx', now)
  finish(id, now, 'cancelled', ARGV[4], ARGV[5], ARGV[6])
  return {'done'}
end
if not h[6] then
  call('HSET', j, 'cx', now)
  trace(id, now, 'cancel', '')
  tell_job(id, 'cancel')
end
if h[4] then call('PUBLISH', P .. 'v:' .. h[4], 'x ' .. id .. ' ' .. (h[5] or '')) end
return {'marked'}
