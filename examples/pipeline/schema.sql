CREATE TABLE IF NOT EXISTS readings (
    id text PRIMARY KEY,  -- of the work: the same however often its record is delivered
    sensor text NOT NULL,
    taken_at timestamptz NOT NULL,
    celsius double precision NOT NULL CHECK (celsius >= -273.15)
);
