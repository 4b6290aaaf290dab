-- The tables that every event-sourced service has in its own schema. Run by the service's own role at start.
--
-- Two walls: the bus stamps the tenant, and row-level security, forced even on the owner, holds each transaction to the
-- tenant that it set (nomos.tenant). The one reader across tenants is the replication of facts to the service's own
-- replicas and declared readers; it must say so (nomos.scope = 'replicate'), may only read, and only this table.

CREATE TABLE events (
    n         bigint      PRIMARY KEY,          -- contiguous per service from 0, in commit order; counter of the outbox producer
    tenant    text        NOT NULL,
    stream    text        NOT NULL,             -- the aggregate, for instance 'agent/issue-bot'
    version   integer     NOT NULL,             -- contiguous per (tenant, stream) from 1
    id        text        NOT NULL UNIQUE,
    type      text        NOT NULL,
    envelope  bytea       NOT NULL,             -- msgpack, as it goes into the journal
    at        timestamptz NOT NULL DEFAULT now(),
    published boolean     NOT NULL DEFAULT false,
    UNIQUE (tenant, stream, version)
);
CREATE INDEX events_unpublished ON events (n) WHERE NOT published;
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
ALTER TABLE events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON events
    USING (tenant = current_setting('nomos.tenant', true))
    WITH CHECK (tenant = current_setting('nomos.tenant', true));
CREATE POLICY replicate_read ON events FOR SELECT
    USING (current_setting('nomos.scope', true) = 'replicate');
CREATE POLICY replicate_mark ON events FOR UPDATE
    USING (current_setting('nomos.scope', true) = 'replicate')
    WITH CHECK (published);

-- Sealed records (XChaCha20-Poly1305): credentials and private keys. Never replicated, never in an event.
CREATE TABLE sealed (
    tenant text  NOT NULL,
    name   text  NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (tenant, name)
);
ALTER TABLE sealed ENABLE ROW LEVEL SECURITY;
ALTER TABLE sealed FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON sealed
    USING (tenant = current_setting('nomos.tenant', true))
    WITH CHECK (tenant = current_setting('nomos.tenant', true));

-- One row: the next number. Locked by every writer, so numbers are contiguous and commit in order.
CREATE TABLE head (one boolean PRIMARY KEY DEFAULT true CHECK (one), next bigint NOT NULL);
INSERT INTO head VALUES (true, 0);
