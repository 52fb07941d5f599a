-- Ends the requests that wait, unless the batch is over; returns their items. `new_status`: CLOSED or CANCELLED.

local new_status, ending = unpack(ARGV, 4)

if not status or status == 'CANCELLED' or redis.call('HEXISTS', record, 'finished_at') == 1 then return {} end
status = new_status
redis.call('HSET', record, 'status', status)
local given_up = {}
for _, custom_id in ipairs(redis.call('ZRANGE', waiting, 0, -1)) do
    local value = redis.call('HGET', items, custom_id)
    redis.call('ZREM', reserved, string.sub(value, 1, 36))
    end_item(custom_id, ending)
    table.insert(given_up, {custom_id, value})
end
redis.call('DEL', waiting)
finish_if_done()
return given_up
