#!lua flags=allow-oom
-- ARGV: image. The end of what wish_pool wished.
if call('HDEL', P .. 'wish', ARGV[1]) == 0 then return {'none'} end
wake()
return {'ok'}
