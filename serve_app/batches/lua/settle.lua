-- Notes how requests ended; each once. `endings`: as JSON, a list of [custom_id, ending].

local endings = unpack(ARGV, 4)

for _, ending in ipairs(cjson.decode(endings)) do
    if redis.call('ZREM', queued, ending[1]) + redis.call('ZREM', waiting, ending[1]) > 0 then
        end_item(ending[1], ending[2])
    end
end
finish_if_done()
