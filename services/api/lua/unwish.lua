#!lua flags=allow-oom
-- ARGV: tenant, image. The end of what wish_pool wished.
if call('HDEL', P .. 'wish', image_of(ARGV[1], ARGV[2])) == 0 then return {'none'} end
wake()
return {'ok'}
