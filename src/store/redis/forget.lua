#!lua
-- Removes what is kept of a name that was only ever leased, unless somebody holds it.
-- KEYS  head, then the lease of each slot that it may have    gives 1, or 0: it stays
if redis.call('HEXISTS', KEYS[1], 'revision') == 1 then return 0 end
for n = 2, #KEYS do
  if redis.call('EXISTS', KEYS[n]) == 1 then return 0 end
end
redis.call('DEL', KEYS[1])
return 1
