-- Deletes a token, and tells those who read `changes`. The empty task is for older versions.

local tokens, changes = unpack(KEYS)
local token_id, max_changes = unpack(ARGV)
redis.call('XADD', changes, 'MAXLEN', '~', max_changes, '*', 'task_id', '', 'token', token_id)
return redis.call('HDEL', tokens, token_id)
