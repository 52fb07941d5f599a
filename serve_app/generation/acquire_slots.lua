-- Takes slots for the images of a task; returns -1, or how many are taken if they do not fit. A slot lasts as long as
-- its task's lease, so those of a dead process become free. `grace_s`: within it a new task is leased.

local slots = unpack(KEYS)
local task_id, images, limit, lease_prefix, grace_s, ttl_s = unpack(ARGV)
local now, taken = redis.call('TIME')[1], 0
local held = redis.call('HGETALL', slots)
for at = 1, #held, 2 do
    local count, since = string.match(held[at + 1], '^(%d+) (%d+)$')
    if now - since <= tonumber(grace_s) or redis.call('EXISTS', lease_prefix .. held[at]) == 1 then
        taken = taken + count
    else
        redis.call('HDEL', slots, held[at])
    end
end
if taken + images > tonumber(limit) then return taken end
redis.call('HSET', slots, task_id, images .. ' ' .. now)
redis.call('EXPIRE', slots, ttl_s)
return -1
