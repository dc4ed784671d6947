-- The tables of a store, version 2: who waits for what can be leased.

-- A place in the lane in front of a resource: urgent ones first, then by number. It is live until it expires by this server's
-- clock, or is renewed. It is written under the lock of the resource's row, so numbers grow in the order of arrival.
CREATE TABLE triplock.tickets (
    resource text COLLATE "C" NOT NULL REFERENCES triplock.resources,
    ticket text COLLATE "C" NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    is_urgent boolean NOT NULL,
    expires timestamptz NOT NULL,
    -- The note of who waits, JSON.
    holder text NOT NULL,
    PRIMARY KEY (resource, ticket)
)
-- Each is renewed every few seconds.
WITH (fillfactor = 50);
