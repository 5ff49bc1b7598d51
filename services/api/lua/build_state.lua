#!lua flags=no-writes
-- ARGV: image name. "ok" and "state sha256 text" or "".
return {'ok', call('HGET', P .. 'build', ARGV[1]) or ''}
