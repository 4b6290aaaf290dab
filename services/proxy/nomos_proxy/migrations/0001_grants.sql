-- Connected accounts: for each connection its current tokens, sealed, and who may renew them now.
--
-- `generation` rises by one with each stored set of tokens, by compare-and-set: of two processes that renew, one stores.
-- `holder` renews until `held_until` by this server's clock, and nobody else does; a process that died leaves a lease that
-- runs out. Row-level security as in the tables beside it. The scope `sweep` finds what is due and may read nothing into
-- another row.

CREATE TABLE grants (
    tenant     text        NOT NULL,
    connection text        NOT NULL,
    generation bigint      NOT NULL CHECK (generation > 0),
    record     bytea       NOT NULL,              -- XChaCha20-Poly1305, under the tenant's data key
    renew_at   bigint      NOT NULL,              -- Unix seconds; 0 for tokens that are not renewed
    state      text        NOT NULL CHECK (state IN ('active', 'lost', 'ending')),
    failures   integer     NOT NULL DEFAULT 0,    -- renewals, or revocations, in a row that failed
    retry_at   bigint      NOT NULL DEFAULT 0,    -- Unix seconds before which nobody tries again
    holder     text        NOT NULL DEFAULT '',
    held_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (tenant, connection)
);
CREATE INDEX grants_due ON grants (renew_at) WHERE state <> 'lost';
ALTER TABLE grants ENABLE ROW LEVEL SECURITY;
ALTER TABLE grants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON grants
    USING (tenant = current_setting('nomos.tenant', true))
    WITH CHECK (tenant = current_setting('nomos.tenant', true));
CREATE POLICY sweep_read ON grants FOR SELECT
    USING (current_setting('nomos.scope', true) = 'sweep');
