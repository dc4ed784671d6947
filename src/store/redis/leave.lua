#!lua
-- Gives a ticket back, and wakes who waits: it may have been the first, and a slot be free.
-- KEYS  lane, tickets    ARGV  ticket, channel    gives 1, or 0: it was not there
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('PUBLISH', ARGV[2], '')
return 1
