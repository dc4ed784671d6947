#!lua
-- Takes the first free slot of a name, if nobody waits for it in front of us (src/store/ticket.rs).
--
-- KEYS  head, lane, tickets, then the lease of each slot
-- ARGV  format, token, time to live in ms, the holder's note, its ticket or "", the ticket's time to live in ms,
--       "urgent" or "", channel
-- gives {"granted", slot, fence}, {"held", slot, its lease, its ms left} of the one that expires first, or the same of the
-- first who waits: {"awaited", 0, as if it had the lease, its ticket's ms left}

local stored = redis.call('HMGET', KEYS[1], 'format', 'fence', 'slots')
if stored[1] and tonumber(stored[1]) ~= tonumber(ARGV[1]) then
  return redis.error_reply('FORMAT ' .. stored[1])
end
local last = tonumber(stored[2] or 0)
if not last or (stored[1] and not stored[2]) or not (last >= 0 and last < 2 ^ 53) then
  return redis.error_reply('DAMAGED ' .. KEYS[1] .. ': no fence')
end

-- The server's time keeps fences growing when it has lost the last one.
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local fence = string.format('%.0f', math.max(last + 1, micros))
local lease = ARGV[2] .. ' ' .. fence .. ' ' .. ARGV[4]

-- The lane's scores are the numbers of the tickets; of urgent ones less 2^52, which is below zero until the year 2112.
local lane, tickets, ours, is_urgent = KEYS[2], KEYS[3], ARGV[5], ARGV[7] == 'urgent'
local function front()
  return redis.call('ZRANGE', lane, 0, 0, 'WITHSCORES')
end
local function note(ticket)
  local over, kept = string.match(redis.call('HGET', tickets, ticket) or '', '^(%d+) (.*)$')
  return tonumber(over or 0), kept
end
local function drop(ticket)
  redis.call('ZREM', lane, ticket)
  redis.call('HDEL', tickets, ticket)
end

local first = front()
local has_lane, place = first[1], false
if has_lane then
  if ours ~= '' then
    place = redis.call('ZSCORE', lane, ours)
    if place and note(ours) <= micros then
      drop(ours)
      place = false
    end
  end
  first = front()
  while first[1] and note(first[1]) <= micros do
    drop(first[1])
    first = front()
  end
end
-- Who is not in the lane comes after all; and who is urgent, after all that are.
local before = tonumber(place or (is_urgent and 0 or math.huge))
local is_others_turn = first[1] and first[1] ~= ours and tonumber(first[2]) < before

local free, slot, held, left = {}, nil, nil, nil
for n = 1, #KEYS - 3 do
  local key = KEYS[3 + n]
  local found = redis.call('GET', key)
  if not found then
    free[#free + 1] = n
    if not has_lane then break end
  else
    local ms = redis.call('PTTL', key)
    if ms < 0 then
      return redis.error_reply('DAMAGED ' .. key .. ': a lease that never ends')
    end
    if not left or ms < left then
      slot, held, left = n, found, ms
    end
  end
end

if free[1] and not is_others_turn then
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'fence', fence,
    'slots', math.max(tonumber(stored[3]) or 0, #KEYS - 3))
  redis.call('SET', KEYS[3 + free[1]], lease, 'NX', 'PX', ARGV[3])
  if place then drop(ours) end
  -- The next may have asked already, and been refused because of us.
  if free[2] and redis.call('EXISTS', lane) == 1 then redis.call('PUBLISH', ARGV[8], '') end
  return { 'granted', free[1], fence }
end

if ours ~= '' then
  if not place then
    local number = math.max(tonumber(redis.call('HGET', tickets, 'last') or 0) + 1, micros)
    redis.call('HSET', tickets, 'last', string.format('%.0f', number))
    redis.call('ZADD', lane, string.format('%.0f', is_urgent and number - 2 ^ 52 or number), ours)
  end
  redis.call('HSET', tickets, ours, string.format('%.0f ', micros + ARGV[6] * 1000) .. ARGV[4])
  -- No other ticket is over later.
  redis.call('PEXPIRE', lane, ARGV[6])
  redis.call('PEXPIRE', tickets, ARGV[6])
end
if free[1] then
  local over, kept = note(first[1])
  return { 'awaited', 0, '- 0 ' .. kept, math.ceil((over - micros) / 1000) }
end
return { 'held', slot, held, left }
