#!lua
-- Removes the leases, the lane and the fence of a name that nobody will ask for again, unless there is a trip or a ledger of it.
-- KEYS  head, lane, tickets, then the lease of each slot that it may have    gives 1, or 0: it stays
if redis.call('HEXISTS', KEYS[1], 'revision') == 1 then return 0 end
redis.call('DEL', unpack(KEYS))
return 1
