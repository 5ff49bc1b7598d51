#!lua flags=no-writes
-- ARGV: tenant, lab, output file. "ok" and "id sha256 size" or "".
return {'ok', call('HGET', P .. 'res:' .. ARGV[1] .. ':' .. ARGV[2], ARGV[3]) or ''}
