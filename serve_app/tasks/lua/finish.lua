-- Records how a task ended. `frees_key`, `is_dead`: 0 or 1; the last three are those of `keep_failure`.

local final, outcome, ttl_s, frees_key, is_dead, images, short_task, short_ttl_s, max_failures = unpack(ARGV, 6)

if not may_write() then return 0 end
if final == 'SUCCESS' and redis.call('HGET', record, 'attempts') == '1' then  -- by a worker, at the first attempt
    local seconds = now - redis.call('HGET', record, 'started_at')
    measured('task_s', seconds)
    measured('image_s', seconds / images)
    measured('image_s:' .. cjson.decode(redis.call('HGET', record, 'task')).request.app_id, seconds / images)
end
redis.call('HSET', record, 'outcome', outcome)
finish(final, ttl_s)
if frees_key == '1' then redis.call('DEL', idempotency) end
if is_dead == '1' then
    redis.call('HSET', record, 'dead', 1)
    redis.call('ZADD', dead, now, task_id)
else
    forget_images()
    if final ~= 'SUCCESS' then keep_failure(short_task, short_ttl_s, ttl_s, max_failures) end
end
return 1
