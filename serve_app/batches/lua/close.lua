-- Nothing can be added any more.

if status == 'OPEN' then
    status = 'CLOSED'
    redis.call('HSET', record, 'status', status)
    finish_if_done()
end
