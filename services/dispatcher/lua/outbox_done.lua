#!lua flags=allow-oom
-- ARGV: fence, id, "sent", "failed", "retry" or "release", status or reason, due, sha256 of the feedback that was sent. A final
-- answer ends the record; "retry" counts, "release" (this dispatcher ends) does not. That it was sent is true whoever leads by
-- now, and a job has one callback only: so it is heard from anybody, before somebody else sends it again.
local id, how = ARGV[2], ARGV[3]
if how ~= 'sent' and not leads(ARGV[1]) then return {'deposed'} end
local key, ob = P .. 'outbox', P .. 'ob:' .. id
if not call('ZSCORE', key, id) then return {'moved'} end
-- Redis came back older while it was sent, and the job has been done again: its present feedback is still to be sent
if ARGV[6] and call('HGET', P .. 'j:' .. id, 'fd') ~= ARGV[6] then return {'moved'} end
if how == 'sent' or how == 'failed' then
  call('ZREM', key, id)
  call('ZREM', P .. 'outbox_at', id)
  call('DEL', ob)
  call('HSET', P .. 'j:' .. id, 'cs', how, 'cy', ARGV[4])
  call('HINCRBY', P .. 'stats', 'callbacks_' .. how, 1)
else
  call('ZADD', key, ARGV[5], id)
  call('HDEL', ob, 'out')
  if how == 'retry' then
    call('HINCRBY', ob, 'tries', 1)
    call('HSET', ob, 'last', ARGV[4])
  end
end
return {'ok'}
