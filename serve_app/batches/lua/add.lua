-- Adds the requests of a chunk that are not known yet, all or none; returns a `Verdict`. `requests`: as JSON, a list of
-- [custom_id, value of the item, bytes]. `adds` 0: only asks, and keeps the files of the new ones until `reserved_until`.

local most, max_bytes, deadline, adds, reserved_until, requests = unpack(ARGV, 4)

redis.call('ZREMRANGEBYSCORE', reserved, '-inf', now)
local fresh, changed, bytes, new = {}, {}, 0, {}
for index, request in ipairs(cjson.decode(requests)) do
    local custom_id, value, size = unpack(request)
    local known = redis.call('HGET', items, custom_id)
    if not known then
        table.insert(fresh, index - 1)
        table.insert(new, request)
        bytes = bytes + size
    -- All but the id of its task, which each attempt to add it chooses anew.
    elseif string.sub(known, 37) ~= string.sub(value, 37) then
        table.insert(changed, index - 1)
    end
end
if #changed > 0 or #new == 0 then return {'fits', fresh, changed} end
if status ~= 'OPEN' or tonumber(now) >= tonumber(deadline) then return {'closed', fresh, changed} end
local added = redis.call('HGET', record, 'added')
if added + #new > tonumber(most) then return {'full', fresh, changed} end
if redis.call('HGET', record, 'bytes') + bytes > tonumber(max_bytes) then return {'large', fresh, changed} end
for index, request in ipairs(new) do
    local custom_id, value = unpack(request)
    local task_id = string.sub(value, 1, 36)
    if adds == '1' then
        redis.call('HSET', items, custom_id, value)
        redis.call('ZADD', waiting, added + index, custom_id)
        redis.call('ZADD', reserved, deadline + kept_s, task_id)
    else
        redis.call('ZADD', reserved, reserved_until, task_id)
    end
end
if adds == '1' then
    redis.call('HINCRBY', record, 'added', #new)
    redis.call('HINCRBY', record, 'bytes', bytes)
    expire_with_record(items)
    expire_with_record(waiting)
end
return {'fits', fresh, changed}
