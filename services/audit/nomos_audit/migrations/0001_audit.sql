-- Projections of the chain: a second copy of the log to search in and to compare with. Dropped and rebuilt at will.
--
-- Two walls: the bus stamps the tenant, and row-level security, forced even on the owner, holds each transaction to the
-- tenant that it set (nomos.tenant), for reading only. Rows are written by the projection alone, which must say so
-- (nomos.scope = 'project'): that scope may add rows of any tenant and can read none. Nobody may change or delete a row.

CREATE TABLE audit_events (
    seq    bigint      PRIMARY KEY,
    ts     timestamptz NOT NULL,
    tenant text        NOT NULL,
    tseq   bigint      NOT NULL,
    type   text        NOT NULL,
    prev   bytea       NOT NULL CHECK (octet_length(prev) = 32),   -- chain hash before the record
    hash   bytea       NOT NULL CHECK (octet_length(hash) = 32),   -- chain hash of the record
    record bytea       NOT NULL,                                   -- canonical bytes; everything else repeats it
    UNIQUE (tenant, tseq)
);
CREATE INDEX audit_events_by_type ON audit_events (tenant, type, tseq);
ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_read ON audit_events FOR SELECT
    USING (tenant = current_setting('nomos.tenant', true));
CREATE POLICY project_add ON audit_events FOR INSERT
    WITH CHECK (current_setting('nomos.scope', true) = 'project');

-- How far the projection is: after block `block` the log had `size` records, the last with chain hash `hash`.
CREATE TABLE audit_projection (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    block bigint  NOT NULL,
    size  bigint  NOT NULL,
    hash  bytea   NOT NULL CHECK (octet_length(hash) = 32)
);

-- Signed checkpoints, kept apart from the store that they speak of. They hold no tenant's data.
CREATE TABLE audit_checkpoints (
    size bigint      PRIMARY KEY,
    note bytea       NOT NULL,
    at   timestamptz NOT NULL DEFAULT now()
);
