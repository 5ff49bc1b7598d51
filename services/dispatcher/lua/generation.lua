#!lua flags=allow-oom
-- ARGV: fence, run id, generation, id_next, id_limit, now. The store's record says so already. Either a new generation
-- on a server that was not initialised, or further ids of the present one. "stale": this is another server by now;
-- "behind" generation: Redis knows a newer one.
if not leads(ARGV[1]) then return {'deposed'} end
if string.match(call('INFO', 'server'), 'run_id:(%x+)') ~= ARGV[2] then return {'stale'} end
local key = P .. 'meta'
local m = call('HMGET', key, 'run_id', 'gen', 'id_next', 'id_limit')
local gen, next_id, limit = tonumber(m[2]) or 0, tonumber(m[3]) or 1, tonumber(m[4]) or 0
if m[1] == ARGV[2] and gen == tonumber(ARGV[3]) then
  if limit < tonumber(ARGV[5]) then call('HSET', key, 'id_limit', ARGV[5]) end
  return {'ok'}
end
if gen >= tonumber(ARGV[3]) then return {'behind', string.format('%d', gen)} end
if next_id < tonumber(ARGV[4]) then next_id = tonumber(ARGV[4]) end
call('HSET', key, 'run_id', ARGV[2], 'gen', ARGV[3], 'id_next', string.format('%d', next_id), 'id_limit', ARGV[5],
  'gen_at', ARGV[6])
wake()
return {'ok'}
