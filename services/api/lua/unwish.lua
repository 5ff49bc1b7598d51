#!lua flags=allow-oom
-- ARGV: tenant, image. The end of what wish_pool wished: for the tenant's own image, else for the one that all share. Not by image_of: what a name
-- means may have changed since the wish.
if call('HDEL', P .. 'wish', own_image(ARGV[1], ARGV[2])) == 0 and call('HDEL', P .. 'wish', ARGV[2]) == 0 then return {'none'} end
wake()
return {'ok'}
