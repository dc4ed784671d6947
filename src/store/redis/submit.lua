#!lua
-- Decides requests for one trip in their order, and commits them. Nothing is written before everything is decided: what
-- can fail has failed by then, and there is no half of a batch.
--
-- KEYS  head, booked, lease, then the id of each request
-- ARGV  format; retry; always (1: write something even if nothing changed, so that WAIT has something to wait for);
--       how long ids are kept, in ms; then of each request: what is asked ("book 7 1"), and whether its id was given
-- gives {"held", lease, its ms left}, or {"done", a line for each request}:
--       "gone" (no such trip), or "new"/"again", outcome, number, revision, fence, time, seats left
-- An id's key holds what was asked, and from the outcome on the same. "-" stands for nothing.

local head_key, booked_key, lease_key = KEYS[1], KEYS[2], KEYS[3]
local retry, always, kept = ARGV[2] == '1', ARGV[3] == '1', ARGV[4]

local function damaged(what)
  return redis.error_reply('DAMAGED ' .. head_key .. ': ' .. what)
end

local function whole(text)
  local number = tonumber(text)
  return number and number >= 0 and number < 2 ^ 53 and number == math.floor(number) and number
end

local head = redis.call('HMGET', head_key, 'format', 'fence', 'revision', 'added', 'seats', 'left', 'bookings')
if head[1] and tonumber(head[1]) ~= tonumber(ARGV[1]) then
  return redis.error_reply('FORMAT ' .. head[1])
end
local held = redis.call('GET', lease_key)
if held then
  return { 'held', held, redis.call('PTTL', lease_key) }
end

local last, revision, added, seats, left, bookings = 0, 0, 0, 0, 0, 0
if head[1] then
  last = whole(head[2])
  if not last then return damaged('no fence') end
end
if head[3] then
  revision, added, seats = whole(head[3]), whole(head[4]), whole(head[5])
  left, bookings = whole(head[6]), whole(head[7])
  if not (head[1] and revision and added and seats and left and bookings) then return damaged('a sum is missing') end
  if left > seats or added > revision or bookings > seats - left then return damaged('its sums contradict each other') end
end
if redis.call('HLEN', booked_key) ~= bookings then return damaged('it counts other bookings than there are') end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local fence = math.max(last + 1, now)
local stamp = string.format(' %.0f %.0f ', fence, now)

local booked = {}    -- student: seats, or false; what was looked up or decided
local changed = {}   -- student: true; whose booking differs from the stored one
local fresh = false  -- the stored bookings are of an earlier trip of the name
local answered = {}  -- id's key: what it holds from now on
local recorded = {}  -- the same as a list: key, value, key, value …
local answers = {}
local broken = false   -- a stored booking is no number

local function decide(change, student, count)
  if change == 'add' then
    if added > 0 then return 'trip_exists' end
  elseif change == 'book' then
    if booked[student] then return 'already_booked', booked[student] end
    if count > left then return 'sold_out' end
  elseif change == 'cancel' then
    if not booked[student] then return 'no_booking' end
    return 'done', booked[student]
  elseif change == 'resize' and count < seats - left then
    return 'below_booked', seats - left
  end
  return 'done'
end

local function apply(change, student, count)
  if change == 'add' then
    seats, left, bookings, added = count, count, 0, revision
    booked, changed, fresh = {}, {}, true
  elseif change == 'book' then
    left, bookings = left - count, bookings + 1
    booked[student], changed[student] = count, true
  elseif change == 'cancel' then
    left, bookings = left + booked[student], bookings - 1
    booked[student], changed[student] = false, true
  elseif change == 'resize' then
    left, seats = count - (seats - left), count
  else
    seats, left, bookings, added = 0, 0, 0, 0
    booked, changed, fresh = {}, {}, true
  end
end

local function answer(asked, given, id_key)
  if given or retry then
    local before, again = answered[id_key], true
    if not before then
      before, again = redis.call('GET', id_key), not retry
    end
    if before then
      if string.sub(before, 1, #asked + 1) == asked .. ' ' then
        return (again and 'again' or 'new') .. string.sub(before, #asked + 1)
      end
      return 'new request_id_reused - -' .. stamp .. string.format('%.0f', left)
    end
  end
  local change, student, count = string.match(asked, '^(%S+) (%S+) (%S+)$')
  if added == 0 and change ~= 'add' then return 'gone' end
  if booked[student] == nil then
    local found = not fresh and student ~= '-' and redis.call('HGET', booked_key, student)
    booked[student] = found and whole(found)
    broken = broken or found and not booked[student]
  end
  count = tonumber(count)
  local outcome, number = decide(change, student, count)
  local line = ' ' .. outcome .. ' ' .. (number and string.format('%.0f', number) or '-')
  if outcome ~= 'done' and not given then
    return 'new' .. line .. ' -' .. stamp .. string.format('%.0f', left)
  end
  revision = revision + 1
  if outcome == 'done' then apply(change, student, count) end
  line = line .. string.format(' %.0f', revision) .. stamp .. string.format('%.0f', left)
  recorded[#recorded + 1] = id_key
  recorded[#recorded + 1] = asked .. line
  if given then answered[id_key] = asked .. line end
  return 'new' .. line
end

for n = 1, #KEYS - 3 do
  answers[n] = answer(ARGV[3 + 2 * n], ARGV[4 + 2 * n] == '1', KEYS[3 + n])
end

if broken then return damaged('a booking is no number of seats') end
if #recorded > 0 then
  redis.call('HSET', head_key, 'format', ARGV[1], 'fence', string.format('%.0f', fence),
    'revision', string.format('%.0f', revision), 'added', string.format('%.0f', added),
    'seats', string.format('%.0f', seats), 'left', string.format('%.0f', left),
    'bookings', string.format('%.0f', bookings))
  if fresh then redis.call('UNLINK', booked_key) end
  for student in pairs(changed) do
    if booked[student] then
      redis.call('HSET', booked_key, student, string.format('%.0f', booked[student]))
    elseif not fresh then
      redis.call('HDEL', booked_key, student)
    end
  end
  for n = 1, #recorded, 2 do
    redis.call('SET', recorded[n], recorded[n + 1], 'PX', kept)
  end
elseif always then
  redis.call('HSET', head_key, 'format', ARGV[1], 'fence', string.format('%.0f', fence))
end
return { 'done', answers }
