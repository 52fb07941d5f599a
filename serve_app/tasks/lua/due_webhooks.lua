-- Leases the tasks whose webhooks are due. `calls_of_owners`: as JSON, how many the calling process calls by owner.
-- `in_line_until`: when a webhook that waits in the line of its owner is due again.

local webhooks, owners = unpack(KEYS)
local now, leased_until, most, most_of_owner, record_prefix, in_line_until, calls_of_owners = unpack(ARGV)
local calls = cjson.decode(calls_of_owners)
most, most_of_owner = tonumber(most), tonumber(most_of_owner)

local function line(owner) return webhooks .. ':of:' .. owner end

-- What is due joins the line of its owner. It stays in `webhooks` too, so that it is found again if the line is lost.
local due = redis.call('ZRANGE', webhooks, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000, 'WITHSCORES')
for index = 1, #due, 2 do
    local owner = redis.call('HGET', record_prefix .. due[index], 'owner') or ''
    redis.call('ZADD', line(owner), 'NX', due[index + 1], due[index])
    redis.call('ZADD', owners, 'NX', due[index + 1], owner)
    redis.call('ZADD', webhooks, in_line_until, due[index])
end

-- Owners take turns, those first that had none for longest.
local leased, again = {}, true
while again do
    again = false
    for _, owner in ipairs(redis.call('ZRANGE', owners, 0, -1)) do
        if #leased < most and (calls[owner] or 0) < most_of_owner then
            local task_id = redis.call('ZPOPMIN', line(owner))[1]
            if task_id then
                redis.call('ZADD', webhooks, leased_until, task_id)
                redis.call('ZADD', owners, now, owner)
                calls[owner] = (calls[owner] or 0) + 1
                table.insert(leased, {task_id, owner})
                again = true
            end
            if redis.call('EXISTS', line(owner)) == 0 then redis.call('ZREM', owners, owner) end
        end
    end
end
return leased
