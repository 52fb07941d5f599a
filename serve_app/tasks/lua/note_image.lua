-- Records a finished image of an unfinished task.

local index, avatar = unpack(ARGV, 6)

if not unfinished then return end
redis.call('HSET', record, 'avatar:' .. index, avatar)
changed()
