-- The tables of a store, version 1. Whoever reads them with other programs is welcome; whoever writes to them is held to
-- the constraints, which refuse an oversale by themselves. (Names compare by their bytes, wherever the database is.)

-- A trip. Its row is the lock of the trip (SELECT … FOR UPDATE), and outlives the trip: fence and revision go on.
CREATE TABLE triplock.trips (
    trip text COLLATE "C" PRIMARY KEY,
    seats bigint NOT NULL DEFAULT 0,
    seats_left bigint NOT NULL DEFAULT 0,
    bookings bigint NOT NULL DEFAULT 0,
    -- How many answers were recorded, and the fence of the last.
    revision bigint NOT NULL DEFAULT 0,
    fence bigint NOT NULL DEFAULT 0,
    -- The revision at which the trip was made; NULL when it is removed.
    added bigint,
    CONSTRAINT no_oversale CHECK (seats_left >= 0 AND seats_left <= seats),
    CONSTRAINT each_holds_a_seat CHECK (bookings >= 0 AND bookings <= seats - seats_left),
    CONSTRAINT removed_is_empty CHECK (added IS NOT NULL OR seats = 0)
)
-- Room for the next version of a row beside it, so that no index has to learn of it.
WITH (fillfactor = 50);

CREATE TABLE triplock.bookings (
    trip text COLLATE "C" NOT NULL REFERENCES triplock.trips,
    student text COLLATE "C" NOT NULL,
    seats bigint NOT NULL CONSTRAINT holds_a_seat CHECK (seats > 0),
    PRIMARY KEY (trip, student)
);

-- What was answered, by request id, for 30 days. (Its trip is there: the row that inserts into it has just updated that.)
CREATE TABLE triplock.requests (
    trip text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    fence bigint NOT NULL,
    time timestamptz NOT NULL,
    seats_left bigint NOT NULL,
    event text NOT NULL,
    change text,
    student text,
    seats bigint,
    refusal text,
    booked bigint,
    PRIMARY KEY (trip, id)
);
CREATE INDEX requests_by_time ON triplock.requests (time);

-- The bookings of a trip add up to the seats that its row says are taken, at every commit.
CREATE FUNCTION triplock.seats_add_up() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed text;
    held bigint;
    taken bigint;
BEGIN
    FOREACH changed IN ARRAY CASE TG_OP
        WHEN 'INSERT' THEN ARRAY[NEW.trip]
        WHEN 'DELETE' THEN ARRAY[OLD.trip]
        ELSE ARRAY[OLD.trip, NEW.trip]
    END LOOP
        SELECT coalesce(sum(seats), 0) INTO held FROM triplock.bookings WHERE trip = changed;
        SELECT seats - seats_left INTO taken FROM triplock.trips WHERE trip = changed;
        IF held <> coalesce(taken, 0) THEN
            RAISE check_violation USING MESSAGE = format(
                'trip %s: its bookings hold %s seats, and its row says %s', changed, held, coalesce(taken, 0));
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- triplock itself is not asked: its statements compute seats_left from the rows that they insert and delete, and to load
-- this language would cost each process that books a millisecond. Whoever else writes is.
CREATE CONSTRAINT TRIGGER seats_add_up AFTER INSERT OR UPDATE OR DELETE ON triplock.bookings
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (current_setting('triplock.adds_up', true) IS DISTINCT FROM 'yes')
    EXECUTE FUNCTION triplock.seats_add_up();
CREATE CONSTRAINT TRIGGER seats_add_up AFTER INSERT OR UPDATE OR DELETE ON triplock.trips
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (current_setting('triplock.adds_up', true) IS DISTINCT FROM 'yes')
    EXECUTE FUNCTION triplock.seats_add_up();

-- What can be leased: its last fence, which outlives every lease.
CREATE TABLE triplock.resources (
    resource text COLLATE "C" PRIMARY KEY,
    fence bigint NOT NULL DEFAULT 0
)
WITH (fillfactor = 50);

-- A lease is held until it expires by this server's clock.
CREATE TABLE triplock.leases (
    resource text COLLATE "C" NOT NULL REFERENCES triplock.resources,
    slot integer NOT NULL CHECK (slot > 0),
    token text NOT NULL,
    fence bigint NOT NULL,
    expires timestamptz NOT NULL,
    -- The note of the holder, JSON.
    holder text NOT NULL,
    PRIMARY KEY (resource, slot)
)
WITH (fillfactor = 50);

-- The ledgers of jobs: for each its sums (JSON) after so many entries, and the newest of those (JSON).
CREATE TABLE triplock.jobs (
    job text COLLATE "C" PRIMARY KEY,
    revision bigint NOT NULL,
    totals text NOT NULL
)
WITH (fillfactor = 50);

CREATE TABLE triplock.entries (
    job text COLLATE "C" NOT NULL REFERENCES triplock.jobs,
    number bigint NOT NULL,
    entry text NOT NULL,
    PRIMARY KEY (job, number)
);

-- Row locks for who wants nothing but a lock.
CREATE TABLE triplock.locks (
    name text COLLATE "C" PRIMARY KEY,
    fence bigint NOT NULL DEFAULT 0
)
WITH (fillfactor = 50);
