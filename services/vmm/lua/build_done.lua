#!lua flags=allow-oom
-- ARGV: build id (image name), sha256 of the archive, "done" or "failed", text. Several vmms may report on one build: it is done
-- when one has done it; a newer archive under the same name is another build.
local name, sha, state = ARGV[1], ARGV[2], ARGV[3]
local now = call('HGET', P .. 'build', name)
if not now then return {'gone'} end
local old_state, old_sha = string.match(now, '^(%S+) (%S+)')
if old_sha ~= sha then return {'gone'} end
if old_state == 'wanted' or (old_state == 'failed' and state == 'done') then
  call('HSET', P .. 'build', name, state .. ' ' .. sha .. ' ' .. ARGV[4])
end
call('PUBLISH', P .. 'builds', name)
tell(string.format('image %s %.0f %s', state, clock(), name))
return {'ok'}
